"""Say what is unusual in a model, what other tools will do with it, and the cure.

\b
edgekit doctor -m ./checkpoint
edgekit doctor -m model.gguf --json

An error is something that edgekit cannot use (exit status 1), a warning something that other tools stumble over
or that the text suffers from, a note good to know. The model is looked at, not loaded.
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
    from edgekit.formats import hub

    found = verb.examine(hub.resolve(model, revision=revision))
    click.echo(json.dumps(found.record()) if as_json else verb.report(found))
    context.exit(0 if found.usable else 1)


COMMAND = doctor
