"""The entry point. A command is a file of this folder, and its help is that file's docstring.

Nothing heavy is imported here, not even numpy: a command's file is imported when it is called, and what that needs
when it runs. Text and paths go to stdout, everything else (progress, statistics, errors) to stderr. Exit status 0 for
success, 2 for an invalid call, 1 for every other failure, 130 after Ctrl-C.
"""

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import click

from edgekit import __version__
from edgekit.errors import EdgekitError

FOLDER = Path(__file__).parent


class OneLine(click.ClickException):
    """An error as a person sees it."""

    def __init__(self, error: EdgekitError):
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]


def names() -> list[str]:
    """The commands there are: `export-web` is in export_web.py."""
    files = (module.name for module in pkgutil.iter_modules([str(FOLDER)]))
    return sorted(name.replace("_", "-") for name in files if not name.startswith("_") and name != "main")


def load(name: str) -> click.Command:
    """Import a command."""
    command: click.Command = importlib.import_module(f"edgekit.cli.{name.replace('-', '_')}").COMMAND
    return command


def summary(name: str) -> str:
    """The first paragraph of a command's help, read from its file without importing it."""
    source = (FOLDER / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    found = re.match(r'"""(.+?)(?:"""|\n\n)', source, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


class Commands(click.Group):
    """Commands by file; every deliberate error becomes one line and an exit status, here and nowhere else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return load(name) if name in names() else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, names()))
        with formatter.section("Commands"):
            formatter.write_dl([(n, click.Command(n, help=summary(n)).get_short_help_str(width)) for n in names()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgekitError as error:
            raise OneLine(error) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgekit")
def main() -> None:
    """A tiny Llama the whole way: convert it, prove it, run it anywhere with the same tokens.

    \b
    edgekit run "Once upon a time"
    edgekit convert -m MODEL --to gguf --quant q4_0
    edgekit inspect -m MODEL

    MODEL is a Hugging Face folder, a .gguf, a .onnx, or a Hub id such as StentorLabs/Stentor2-12M; without -m it
    is the small story teller that comes with edgekit.
    """
