"""Measure models side by side: load, first token, prefill, decode, overhead, memory, size.

\b
edgekit bench -m model.gguf -m model.onnx
edgekit bench -m ./checkpoint --runtime torch --runtime onnx --prompt-tokens 32,512 --repeat 3
edgekit bench -m model.onnx --threads 1,2 --temperature 0.8 --top-p 0.7 --csv speed.csv --plot speed.svg

Prompts are fixed token ids; the sampler's settings are those of `run`. edgekit/evaluation/bench_worker.py documents how
each figure is measured.
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
    "-m", "--model", "models", multiple=True, metavar="MODEL", help="As for `run`; may be repeated: models take turns."
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="As for `run`; may be repeated.")
@flags.quant
@flags.revision
@options(Benching)
@options(Running, only=specs(Running).keys() - {"threads"})
@options(Sampling)
@flags.as_json
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Also write the table to this file."
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw decode speeds into this file.")
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
            raise UsageError(f"{flag} needs a file, but {path} is a folder")
    settings = Benching(**given(Benching, values))
    running, sampling = given(Running, values), given(Sampling, values)
    if plot is not None:
        plots.require()
    from edgekit.evaluation import bench as command
    from edgekit.evaluation import bench_report as report
    from edgekit.utils import files

    result = command.bench(
        models or (None,), settings, runtimes=runtimes, quant=quant, revision=revision, running=running,
        sampling=sampling, progress=flags.progress,
    )  # fmt: skip
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    if csv_file is not None:
        files.write_bytes(csv_file, report.to_csv(result).encode())
    if plot is not None:
        files.write_bytes(plot, report.svg(result).encode())
    click.echo(json.dumps(result.record()) if as_json else report.report(result, markdown=markdown))


COMMAND = bench
