"""Write a web page that runs the model in the browser, offline and on phones; prints its folder.

\b
edgekit export-web -o site
edgekit export-web -m ./checkpoint --quant q4_0 --quant q8_0 -o site
edgekit export-web -m model.gguf -o site
python -m http.server --directory site 8000

The folder is static: any web server can serve it. Phones can install it for offline use if it is served over https or
from the phone itself.
"""

import json
from pathlib import Path

import click

from edgekit.cli import _flags as flags


@click.command("export-web", help=__doc__)
@click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL",
    help="Model folder, .gguf or Hub id; may be repeated; default: the bundled model.",
)  # fmt: skip
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to write."
)
@click.option(
    "--quant", "quants", multiple=True, metavar="TYPE",
    help="The weights' type: q4_0, q8_0 or f16; may be repeated.  [default: a .gguf as it is; else the most exact of "
         "them with at most 5.5 MB of weights, so that a first visit fetches 6 MB, or q4_0]",
)  # fmt: skip
@flags.revision
@flags.force
@flags.as_json
def export_web(
    models: tuple[str, ...],
    output: Path,
    quants: tuple[str, ...],
    revision: str | None,
    force: bool,
    as_json: bool,
) -> None:
    from edgekit.web import export as command

    exported = command.export_web(
        models, output, quants=[quant.lower() for quant in quants], revision=revision, force=force,
        progress=flags.progress,
    )  # fmt: skip
    if as_json:
        sizes = {"first_visit": exported.first_visit, "total": exported.total}
        record = {"path": str(exported.path), "models": exported.models} | sizes | {"notes": exported.notes}
        click.echo(json.dumps(record))
        return
    click.echo(command.summary(exported), err=True)
    click.echo(str(exported.path))


COMMAND = export_web
