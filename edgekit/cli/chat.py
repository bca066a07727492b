"""Talk with a chat model, through its chat template.

\b
edgekit chat -m ./checkpoint
edgekit chat -m model.gguf --system "Answer in one sentence." --temperature 0.8 --seed 7
echo "What is the capital of France?" | edgekit chat -m model.gguf

A line is a message. /reset starts over, /system TEXT sets the system's message, /save FILE writes the conversation as
JSON, /help lists all commands. Ctrl-C ends an answer, Ctrl-D the conversation. A piped stdin is one message.

What the model has read of the conversation is not read again. Once the context is full, the oldest turns are left out.
"""

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._answer import notes, show, statistics
from edgekit.cli._options import given, options
from edgekit.cli._prompt import piped
from edgekit.errors import EdgekitError, FileError, UsageError, VocabularyError
from edgekit.settings import Drafting, Generating, Running
from edgekit.utils.files import os_reason

if TYPE_CHECKING:
    from edgekit.model import Model

HELP = """\
/reset         forget the conversation, but not the system's message
/system TEXT   set the system's message; without TEXT there is none
/save FILE     write the conversation as JSON, a list of messages
/help          this list
/quit          end the conversation
Ctrl-C ends an answer, Ctrl-D the conversation. Pasted lines are one message."""

COMMAND_LINE = re.compile(r"/[a-z]*(\s|$)")
"""A line that is a command; `/usr/bin is a folder` is a message."""


@click.command("chat", help=__doc__)
@flags.model
@flags.runtime
@flags.quant
@flags.revision
@click.option("--system", metavar="TEXT", help="The system's message, at the beginning.")
@options(Generating, Running, Drafting)
@click.option("--stats", is_flag=True, help="Print timings on stderr.")
def chat(
    model: str | None,
    runtime: str | None,
    quant: str | None,
    revision: str | None,
    system: str | None,
    stats: bool,
    **values: Any,
) -> None:
    message = None if sys.stdin.isatty() else piped()
    running, settings, drafting = given(Running, values), given(Generating, values), given(Drafting, values)
    if drafting and "draft" not in drafting:
        raise UsageError(f"--{next(iter(drafting)).replace('_', '-')} needs --draft")
    from edgekit.formats.generation_config import caveats
    from edgekit.model import load

    where = flags.find(model, revision)
    loaded = load(where, runtime=runtime, quant=quant, progress=flags.progress, **running)
    for caveat in caveats(loaded.runtime.files):
        flags.note(caveat)
    if loaded.chat_template is None:
        raise VocabularyError("the model has no chat template, so it cannot chat: `edgekit run` continues a text")
    if drafting:
        drafting["draft"] = loaded.drafter(drafting["draft"], drafting.get("draft_runtime"))
        settings |= drafting
    conversation = Conversation(loaded, settings, system, stats)
    if message is None:
        _converse(conversation)
    elif not conversation.answer(message):
        sys.exit(130)


class Conversation:
    """The messages so far, and the model that answers them."""

    def __init__(self, model: "Model", settings: dict[str, Any], system: str | None, stats: bool):
        self._model, self._settings, self._stats = model, settings, stats
        self.system = system
        self.turns: list[dict[str, str]] = []
        self._dropped = 0
        self._saved: set[Path] = set()
        """The files that this conversation was written to."""

    @property
    def messages(self) -> list[dict[str, str]]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def answer(self, text: str) -> bool:
        """Print the answer to a message; both are then part of the conversation. False if Ctrl-C ended it.

        Raises `EdgekitError`; the message is then not part of it.
        """
        self.turns.append({"role": "user", "content": text})
        try:
            stream = self._model.chat(self.messages, **self._settings)
            finished = show(stream)
        except BaseException:
            self.turns.pop()
            raise
        self.turns.append({"role": "assistant", "content": stream.result.text})
        click.echo()
        result = stream.result
        changed = result.dropped_messages != self._dropped
        self._dropped = result.dropped_messages
        for note in notes(result, self._model.runtime.context_length):
            if changed or "left out" not in note:
                click.echo(note, err=True)
        if self._stats:
            click.echo(statistics(result), err=True)
        return finished

    def command(self, line: str) -> None:
        """Carry out a command. Raises `UsageError`, `FileError`; `EOFError` for the end."""
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/help":
            click.echo(HELP, err=True)
        elif name in ("/quit", "/exit", "/bye"):
            raise EOFError
        elif name == "/reset":
            self.turns.clear()
            click.echo("[a new conversation]", err=True)
        elif name == "/system":
            self.system = argument or None
            click.echo("[the system's message is set]" if argument else "[no system's message]", err=True)
        elif name == "/save" and argument:
            self.save(Path(argument).expanduser())
            click.echo(f"[{len(self.messages)} messages written to {argument}]", err=True)
        elif name == "/save":
            raise UsageError("/save needs a file name")
        else:
            raise UsageError(f"unknown command {name}: /help lists those there are")

    def save(self, path: Path) -> None:
        """As a JSON list of messages. A file is replaced only by a later state of this conversation.

        Raises `FileError`.
        """
        text = json.dumps(self.messages, indent=2, ensure_ascii=False) + "\n"
        try:
            with open(path, "w" if path in self._saved else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise FileError(f"{path} exists already: name another file") from error
        except OSError as error:
            raise FileError(f"cannot write {path}: {os_reason(error)}") from error
        except ValueError as error:
            raise FileError(f"cannot write {path}: {error}") from error
        self._saved.add(path)


def _converse(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # gives `input` a history and arrow keys

        readline.parse_and_bind("set enable-bracketed-paste on")  # pasted line breaks do not send
    click.echo("Type a message, or /help. Ctrl-C ends an answer, Ctrl-D the conversation.", err=True)
    while True:
        try:
            line = input("> ").strip()
        except KeyboardInterrupt:  # at the prompt it drops the line
            click.echo(err=True)
            continue
        except EOFError:
            click.echo(err=True)
            return
        try:
            if COMMAND_LINE.match(line):
                conversation.command(line)
            elif line:
                conversation.answer(line)
        except EOFError:
            return
        except KeyboardInterrupt:  # before the first token
            click.echo(err=True)
        except EdgekitError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)


COMMAND = chat
