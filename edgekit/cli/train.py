"""Train a base model; prints the folder of the finished model.

\b
edgekit train smoke
edgekit train recipe.toml --set learning_rate=1e-3 --set block_size=512 -o runs/try
edgekit train recipe.toml --extend --set token_budget=30_000_000
accelerate launch -m edgekit.training stentor2-12m

RECIPE is a TOML file, or one of edgekit's own: base, base-extended, base-one-word, base-one-word-beside,
base-one-word-extended, smoke, stentor2-12m. Run again after a stop, Ctrl-C or a power cut, the same command goes
on from the last checkpoint, as if nothing had happened.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgekit.errors import EdgekitError, UsageError
from edgekit.utils import registry


@click.command("train", help=__doc__)
@click.argument("recipe", metavar="RECIPE")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run; default: runs/NAME.")
@click.option("--resume/--fresh", default=None, help="Insist on going on, or begin anew; default: go on if possible.")
@click.option(
    "--extend", is_flag=True, help="Go on although the recipe has another length, rate, schedule or text by now."
)
@click.option("--stop-at", type=click.IntRange(1), metavar="STEP", help="Save and stop after this step.")
def train(
    recipe: str,
    changes: tuple[str, ...],
    output: Path | None,
    resume: bool | None,
    extend: bool,
    stop_at: int | None,
) -> None:
    recipes = registry.load("training", "recipe")
    loaded = recipes.load(recipe, [*changes, *([f"saving.output={output}"] if output else [])])
    if extend and resume is False:
        raise UsageError("--extend goes on from a run, --fresh deletes it: give one of them")
    if (resume or extend) and not (loaded.output / "checkpoints").is_dir():
        raise UsageError(f"{loaded.output} has no checkpoint to go on from")
    loop, progress = registry.load("training", "loop"), registry.load("training", "progress")
    line = progress.Line(sys.stderr)
    main_process = int(os.environ.get("RANK", "0")) == 0
    with _Messages(line, main_process):
        result = loop.train(loaded, fresh=resume is False, extend=extend, stop_at=stop_at, meter=line)
        line.clear()
    if not main_process:
        return
    if result.finished:
        click.echo(str(result.folder / "model"))
    elif stop_at is None:
        sys.exit(130)


class _Messages(logging.Handler):
    """What edgekit.training logs, as lines on stderr, while the command runs."""

    def __init__(self, line: Any, main_process: bool):
        super().__init__(logging.INFO if main_process else logging.ERROR)
        self.line, self.logger = line, logging.getLogger("edgekit.training")

    def emit(self, record: logging.LogRecord) -> None:
        self.line.clear()
        click.echo(record.getMessage(), err=True)

    def __enter__(self) -> None:
        self.before = self.logger.level, self.logger.propagate
        self.logger.addHandler(self)
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self.logger.removeHandler(self)
        self.logger.level, self.logger.propagate = self.before


def main() -> None:
    """`train` alone, for `python -m edgekit.training`: a deliberate error is one line, as in `edgekit`."""
    try:
        train()
    except EdgekitError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)


COMMAND = train
