"""Write a web page that runs the model in the browser, offline and on phones; prints its folder.

\b
edgekit export-web -o site
edgekit export-web -m ./checkpoint --quant fp16 --quant int8 -o site
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
    help="Model folder, .gguf, fused .onnx or Hub id; may be repeated; default: the bundled model.",
)  # fmt: skip
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to write."
)
@click.option(
    "--quant", "quants", multiple=True, metavar="TYPE",
    help="How weights are stored: fp32, fp16 or int8; may be repeated.  [default: fp16; int8 where that is over 15 MB]",
)  # fmt: skip
@click.option(
    "--onnxruntime-web", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="The npm package onnxruntime-web, unpacked.  [default: npm fetches it once]",
)  # fmt: skip
@click.option("--webgpu/--no-webgpu", default=False, help="Include WebGPU, for browsers that have it: 6.7 MB more.")
@flags.revision
@flags.force
@flags.as_json
def export_web(
    models: tuple[str, ...],
    output: Path,
    quants: tuple[str, ...],
    onnxruntime_web: Path | None,
    webgpu: bool,
    revision: str | None,
    force: bool,
    as_json: bool,
) -> None:
    from edgekit.web import export as command

    exported = command.export_web(
        models, output, quants=[quant.lower() for quant in quants], onnxruntime_web=onnxruntime_web, webgpu=webgpu,
        revision=revision, force=force, progress=flags.progress,
    )  # fmt: skip
    if as_json:
        sizes = {"first_visit": exported.first_visit, "total": exported.total}
        record = {"path": str(exported.path), "models": exported.models} | sizes | {"notes": exported.notes}
        click.echo(json.dumps(record))
        return
    click.echo(command.summary(exported), err=True)
    click.echo(str(exported.path))


COMMAND = export_web
