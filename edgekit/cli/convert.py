"""Convert a model to another format; prints the path of the artefact.

\b
edgekit convert -m ./checkpoint --to gguf --quant q4_0
edgekit convert -m ./checkpoint --to onnx --quant int8 -o out.onnx
edgekit convert -m ./checkpoint --plan
edgekit convert -m ./checkpoint --to gguf --target-size 7MB
edgekit convert -m ./checkpoint --to gguf --quant q4_0 --importance default
edgekit convert -m model.gguf --to hf -o ./checkpoint-again
"""

import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.errors import UsageError
from edgekit.settings import Choosing, Converting
from edgekit.utils import registry


@click.command("convert", help=__doc__)
@flags.model
@click.option("--to", metavar="FORMAT", help=f"One of {', '.join(registry.names('converters'))}.")
@flags.output
@flags.force
@flags.revision
@options(Converting, Choosing)
@click.option("--plan", is_flag=True, help="Write nothing: print the size of every type of FORMAT.")
@click.option("--sensitivity", is_flag=True, help="With --plan: measure which tensors lose most by each type.")
@click.option("--verify/--no-verify", default=True, help="Compare the artefact with its source; keep it only if sound.")
@click.option(
    "--advice/--no-advice",
    default=None,
    help="If the type costs more than 2 % perplexity, measure which larger one does not: seconds for 12 million "
    "parameters, tens of seconds for 135 million.  [default: up to 500 million]",
)
@flags.strict
@flags.as_json
def convert(
    model: str | None,
    to: str | None,
    output: Path | None,
    force: bool,
    revision: str | None,
    plan: bool,
    sensitivity: bool,
    verify: bool,
    advice: bool | None,
    strict: bool,
    as_json: bool,
    **values: Any,
) -> None:
    from edgekit.conversion import convert as verb

    settings, choosing = Converting(**given(Converting, values)), Choosing(**given(Choosing, values))
    chooses = choosing.target_size is not None or choosing.max_kl is not None
    if to is None and not plan:
        raise UsageError(f"Missing option '--to': one of {', '.join(registry.names('converters'))}")
    if sensitivity and not plan:
        raise UsageError("--sensitivity needs --plan")
    if plan and (chooses or output is not None):
        raise UsageError("--plan neither writes nor chooses: omit --output, --target-size and --max-kl")
    if chooses and settings.quant is not None:
        raise UsageError("--target-size and --max-kl choose the type: omit --quant")
    where = flags.find(model, revision)
    if plan or chooses:
        from edgekit.cli import _plan as planner
    if plan or to is None:
        planner.show(where, to, settings, sensitivity, as_json)
        return
    choice: dict[str, Any] = {}
    if chooses:
        settings, choice = planner.choose(where, to, output, settings, choosing, force, as_json)
    result = verb.convert(
        where, to, output, settings=settings, force=force, verify=verify, strict=strict, advice=advice,
        progress=flags.progress,
    )  # fmt: skip
    if as_json:
        import dataclasses

        tensors = [dataclasses.asdict(tensor) for tensor in result.tensors]
        record = {"path": str(result.path), "tensors": tensors, "notes": result.notes, "receipt": result.receipt}
        record["advice"] = None if result.advice is None else result.advice.record()
        click.echo(json.dumps(record | choice))
        return
    click.echo(verb.summary(result), err=True)
    click.echo(str(result.path))


COMMAND = convert
