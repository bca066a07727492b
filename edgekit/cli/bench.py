"""Measure models side by side: load, first token, prefill, decode, overhead, memory, size.

\b
edgekit bench -m model.gguf -m model.onnx
edgekit bench -m ./checkpoint --runtime torch --runtime onnx --prompt-tokens 32,512 --repeat 3
edgekit bench -m model.onnx --threads 1,2 --temperature 0.8 --top-p 0.7 --csv speed.csv --plot speed.svg

Prompts are fixed token ids, the sampler's settings those of `run`. What each figure means, and how it is measured,
stands at the head of edgekit/bench_worker.py.
"""

import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.errors import UsageError
from edgekit.evaluation.bench_settings import Benching
from edgekit.settings import Running, Sampling, specs
from edgekit.utils import plot as plots


@click.command("bench", help=__doc__)
@click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL", help="As of `run`; may be repeated: they take turns."
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="As of `run`; may be repeated.")
@flags.quant
@flags.revision
@options(Benching)
@options(Running, only=specs(Running).keys() - {"threads"})
@options(Sampling)
@flags.as_json
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the table there too.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw decode speeds there.")
@click.option("--markdown", is_flag=True, help="Print the tables in Markdown.")
def bench(
    models: tuple[str, ...],
    runtimes: tuple[str, ...],
    quant: str | None,
    revision: str | None,
    as_json: bool,
    csv_file: Path | None,
    plot: Path | None,
    markdown: bool,
    **values: Any,
) -> None:
    if as_json and markdown:
        raise UsageError("give --json or --markdown, not both")
    for flag, path in (("--csv", csv_file), ("--plot", plot)):
        if path is not None and path.is_dir():
            raise UsageError(f"{flag} wants a file, and {path} is a folder")
    settings = Benching(**given(Benching, values))
    running, sampling = given(Running, values), given(Sampling, values)
    if plot is not None:
        plots.require()
    from edgekit.evaluation import bench as verb
    from edgekit.evaluation import bench_report as report
    from edgekit.utils import files

    found = verb.bench(
        models or (None,), settings, runtimes=runtimes, quant=quant, revision=revision, running=running,
        sampling=sampling, progress=flags.progress,
    )  # fmt: skip
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if csv_file is not None:
        files.write_bytes(csv_file, report.to_csv(found).encode())
    if plot is not None:
        files.write_bytes(plot, report.svg(found).encode())
    click.echo(json.dumps(found.record()) if as_json else report.report(found, markdown=markdown))


COMMAND = bench
