"""Measure models side by side: load, first token, prefill, decode, overhead, memory, size.

\b
edgekit bench -m model.gguf -m model.onnx
edgekit bench -m ./checkpoint --runtime torch --runtime onnx --prompt-tokens 32,512 --repeat 3
edgekit bench -m model.onnx --threads 1,2 --temperature 0.8 --top-p 0.7 --csv speed.csv --plot speed.svg

Prompts are fixed token ids, the sampler's settings those of `run`. What each figure means, and how it is measured,
stands at the head of edgekit/bench_worker.py.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.errors import UsageError
from edgekit.evaluation.bench_settings import AUTO, Benching
from edgekit.settings import Running, Sampling

FIELDS = {f.name: f for f in dataclasses.fields(Benching)}


class Numbers(click.ParamType):
    """`32,512`: whole numbers between commas; or one of some words in the place of a number."""

    name = "numbers"

    def __init__(self, *words: str):
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if value == "none" and param is not None and param.name == "context":
            return ()
        parts = [part.strip() for part in value.split(",")]
        try:
            return tuple(part if part in self.words else int(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of whole numbers", param, ctx)


def _setting(name: str, kind: Any) -> Any:
    """The flag of a field of `Benching`; what was not typed is absent, as in `edgekit.cli.options`."""
    field = FIELDS[name]
    usual = field.default if isinstance(field.default, tuple) else (field.default,)
    return click.option(
        "--" + name.replace("_", "-"),
        type=kind,
        default=None,
        metavar=field.metadata["metavar"],
        help=f"{field.metadata['help']}  [default: {','.join(map(str, usual))}]",
    )


@click.command("bench", help=__doc__)
@click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL", help="As of `run`; may be repeated: they take turns."
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="As of `run`; may be repeated.")
@flags.quant
@flags.revision
@_setting("prompt_tokens", Numbers())
@_setting("new_tokens", int)
@_setting("repeat", int)
@_setting("context", Numbers())
@_setting("threads", Numbers(AUTO))
@options(Running, only={f.name for f in dataclasses.fields(Running)} - {"threads"})
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
    # `given` would drop an empty tuple, which here means `--context none`.
    settings = Benching(**{name: values.pop(name) for name in FIELDS if values[name] is not None})
    running, sampling = given(Running, values), given(Sampling, values)
    Sampling(**sampling)  # a value out of its range ends it here, before any process starts
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
