"""The entry point of `edgekit`. A command is a file in this folder that has `COMMAND`; its docstring is the help.

Start-up is fast because nothing heavy is imported, not even numpy: a command's file is imported when the command is
called, and what it needs when it runs. Results (text, paths, JSON) go to stdout, everything else (progress, statistics,
errors) to stderr. Exit status: 0 for success, 2 for an invalid call, 130 after Ctrl-C, 143 after SIGTERM, 1 for every
other failure.
"""

import contextlib
import errno
import importlib
import pkgutil
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgekit import __version__
from edgekit.errors import EdgekitError, FileError

FOLDER = Path(__file__).parent

NO_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)
"""Writing to stdout can fail like writing any other file: `run ... > FILE` on a full disk, or `run ... >&-`."""


class OneLine(click.ClickException):
    """An `EdgekitError` as one line, with its exit status."""

    def __init__(self, error: EdgekitError):
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click has it as a class variable


def names() -> list[str]:
    """All commands, sorted; `export-web` is in export_web.py."""
    modules = (module.name for module in pkgutil.iter_modules([str(FOLDER)]))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_") and name != "main")


def load(name: str) -> click.Command:
    """Import the file of a command."""
    command: click.Command = importlib.import_module(f"edgekit.cli.{name.replace('-', '_')}").COMMAND
    return command


def summary(name: str) -> str:
    """The first paragraph of a command's help, read from its file without importing it."""
    source = (FOLDER / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    paragraph = re.match(r'"""(.+?)(?:"""|\n\n)', source, re.DOTALL)
    return " ".join(paragraph[1].split()) if paragraph else ""


class Terminated(BaseException):
    """SIGTERM: like Ctrl-C it unwinds the stack, so that temporary files are deleted."""


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated`, unless the program that started this one has it ignored or handled."""

    def terminate(*_: Any) -> None:
        raise Terminated

    try:
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            raise ValueError
        signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # also outside the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turns an `EdgekitError`, a full disk, Ctrl-C and SIGTERM into what click prints as one line."""
    try:
        with terminating():
            yield
    except EdgekitError as error:
        raise OneLine(error) from error
    except OSError as error:
        if error.errno not in NO_OUTPUT:
            raise
        raise OneLine(FileError(f"cannot write the output: {error.strerror}")) from error
    except KeyboardInterrupt:
        click.echo("\nstopped", err=True)
        raise click.exceptions.Exit(130) from None
    except Terminated:
        click.echo("stopped", err=True)
        raise click.exceptions.Exit(143) from None


class Commands(click.Group):
    """The group of all commands; an `EdgekitError` in any of them becomes one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return load(name) if name in names() else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, names()))
        with formatter.section("Commands"):
            formatter.write_dl([(n, click.Command(n, help=summary(n)).get_short_help_str(width)) for n in names()])

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with one_line():  # `edgekit --help` is printed here
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line():
            return super().invoke(ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgekit")
def main() -> None:
    """Tiny Llama models from training to text: convert, verify and run them, with the same tokens on every runtime.

    \b
    edgekit run "Once upon a time"
    edgekit convert -m MODEL --to gguf --quant q4_0
    edgekit inspect -m MODEL

    MODEL is a Hugging Face folder, a .gguf, a .onnx, or a Hub id such as StentorLabs/Stentor2-12M, or
    owner/name:q4_0 for a GGUF by its type. The default is the small story model that comes with edgekit.
    """
