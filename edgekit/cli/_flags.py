"""Flags that mean the same in several commands, and the progress bar."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from edgekit.utils import registry

model = click.option(
    "-m", "--model", metavar="MODEL",
    help="Model folder, .gguf, .onnx, llama2.c's .bin or Hub id (owner/name, owner/name:q4_0); default: the bundled "
    "model.",
)  # fmt: skip
runtime = click.option(
    "--runtime", metavar="NAME", help=f"One of {', '.join(registry.names('runtimes'))}; default: by the format."
)
quant = click.option(
    "--quant",
    metavar="TYPE",
    help="Weight type of the conversion that onnx and llamacpp make of a model folder, and cache.",
)
revision = click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub id.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File or folder to write; default: in the current folder."
)
strict = click.option("--strict", is_flag=True, help="Refuse a configuration with keys that edgekit does not know.")
force = click.option("--force", is_flag=True, help="Replace an existing file.")


def note(text: str) -> None:
    """Print a note on stderr."""
    click.echo(f"note: {text}", err=True)


def find(model: str | None, revision: str | None) -> Path:
    """The file or folder of `--model` and `--revision`; says on stderr what was taken of a Hub id."""
    from edgekit.formats import hub

    return hub.resolve(model, revision=revision, note=note)


def of_hub(path: Path) -> dict[str, Any]:
    """{"hub": repository, commit and file} for a model from the Hub, for JSON; otherwise {}."""
    from edgekit.formats.hub_cache import origin

    found = origin(path)
    return {"hub": found.record()} if found else {}


def progress(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
    """Pass the items through, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, length=total, label=what, file=sys.stderr) as bar:
        yield from bar
