"""Describe a model or artefact: parameters, vocabulary, tensors, size by type.

\b
edgekit inspect -m ./checkpoint
edgekit inspect -m model.gguf --json
"""

import json

import click

from edgekit.cli import _flags as flags


@click.command("inspect", help=__doc__)
@flags.model
@click.option("--tensors/--no-tensors", default=True, help="List every tensor.")
@flags.revision
@flags.as_json
def inspect(model: str | None, tensors: bool, revision: str | None, as_json: bool) -> None:
    from edgekit.doctor import inspect as verb

    where = flags.find(model, revision)
    description = verb.describe(where) | flags.of_hub(where)
    click.echo(json.dumps(description) if as_json else verb.report(description, tensors=tensors))


COMMAND = inspect
