"""Report what is unusual about a model, what other tools will do with it, and how to fix it.

\b
edgekit doctor -m ./checkpoint
edgekit doctor -m model.gguf --json

An error means that edgekit cannot use the model (exit status 1), a warning that other tools fail or that the text
gets worse, a note is good to know. The files are examined, the model is not run.
"""

import json

import click

from edgekit.cli import _flags as flags


@click.command("doctor", help=__doc__)
@flags.model
@flags.revision
@flags.as_json
@click.pass_context
def doctor(context: click.Context, model: str | None, revision: str | None, as_json: bool) -> None:
    from edgekit.doctor import examine as verb

    where = flags.find(model, revision)
    result = verb.examine(where)
    click.echo(json.dumps(result.record() | flags.of_hub(where)) if as_json else verb.report(result))
    context.exit(0 if result.usable else 1)


COMMAND = doctor
