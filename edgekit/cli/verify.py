"""Compare artefacts with the model they were converted from: what each lost, and whether it is sound.

The source and each ARTEFACT (.gguf, .onnx or folder, in any mix) get the same token ids. If one is broken, the exit
status is 1 and a sentence says why.

\b
edgekit verify -m ./checkpoint checkpoint-q4_0.gguf checkpoint-int8.onnx
edgekit verify -m ./checkpoint *.gguf --text validation.jsonl.gz --tokens 8192 --plot formats.svg
edgekit verify -m ./checkpoint other-tool.gguf --layers
"""

import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.conversion.verification.settings import Verifying
from edgekit.errors import CheckpointError, UsageError
from edgekit.utils import plot as plots


@click.command("verify", help=__doc__)
@click.argument("artefacts", nargs=-1, required=True, metavar="ARTEFACT...")
@flags.model
@click.option(
    "--runtime", metavar="NAME", help="Runtime of the source: torch, onnx or llamacpp; default: numpy on its tensors."
)
@flags.revision
@click.option(
    "--text", "texts", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Compare on this .txt or .jsonl, or a folder of them; may be repeated.  [default: the bundled text]",
)  # fmt: skip
@options(Verifying)
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw size, KL and agreement as an SVG.")
@flags.as_json
def verify(
    artefacts: tuple[str, ...],
    model: str | None,
    runtime: str | None,
    revision: str | None,
    texts: tuple[Path, ...],
    markdown: bool,
    plot: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    if as_json and markdown:
        raise UsageError("give --json or --markdown, not both")
    if plot is not None and plot.is_dir():
        raise UsageError(f"--plot needs a file, but {plot} is a folder")
    settings = Verifying(**given(Verifying, values))
    if plot is not None:
        plots.require()
    from edgekit.conversion.verification import report
    from edgekit.conversion.verification import verify as verb
    from edgekit.utils import files
    from edgekit.utils import texts as reading

    documents = reading.read(texts) if texts else None
    result = verb.verify(
        flags.find(model, revision), artefacts, settings, texts=documents, runtime=runtime, progress=flags.progress
    )
    if plot is not None:
        files.write_bytes(plot, report.svg(result).encode())
    if as_json:
        click.echo(json.dumps(result.record()))
    else:
        click.echo(report.report(result, markdown=markdown, kv_type=settings.kv_type))
    if broken := [proof for proof in result.artefacts if not proof.sound]:
        more = f" (and {len(broken) - 1} more are broken)" if len(broken) > 1 else ""
        path, reason = broken[0].path, broken[0].failures[0]
        named = reason if reason.startswith(str(path)) else f"{path.name}: {reason}"
        raise CheckpointError(f"{named}{more}")


COMMAND = verify
