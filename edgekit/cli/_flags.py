"""What several commands share: flags that mean the same everywhere, and the progress bar."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from edgekit.utils import registry

model = click.option(
    "-m", "--model", metavar="MODEL", help="Model folder, .gguf, .onnx or Hub id; default: the bundled model."
)
runtime = click.option(
    "--runtime", metavar="NAME", help=f"One of {', '.join(registry.names('runtimes'))}; default: the format's own."
)
quant = click.option("--quant", metavar="TYPE", help="For a folder on onnx or llamacpp: type of its cached conversion.")
revision = click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub id.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
output = click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to; default: in this folder.")
force = click.option("--force", is_flag=True, help="Replace a file that is there.")


def progress(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
    """A bar on stderr; silent where stderr is no terminal. See `edgekit.conversion.convert.Progress`."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, length=total, label=what, file=sys.stderr) as bar:
        yield from bar
