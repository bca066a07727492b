"""Train a base model; prints the folder of the finished model.

\b
edgekit train smoke
edgekit train recipe.toml --set learning_rate=1e-3 --set block_size=512 -o runs/try
edgekit train recipe.toml --extend --set token_budget=30_000_000
accelerate launch -m edgekit.training stentor2-12m

RECIPE is a TOML file, or one that comes with edgekit: base, base-extended, base-one-word, base-one-word-beside,
base-one-word-extended, smoke, stentor2-12m. After an interruption the same command continues from the last checkpoint,
with the result of an uninterrupted run.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli.main import OneLine
from edgekit.errors import EdgekitError, UsageError
from edgekit.utils import registry


@click.command("train", help=__doc__)
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run; default: runs/NAME.")
@click.option(
    "--resume/--fresh",
    default=None,
    help="Require a checkpoint to continue from, or start over; default: continue if there is one.",
)
@click.option(
    "--extend",
    is_flag=True,
    help="Continue although the recipe's length, learning rate, schedule or text have changed.",
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
    settings = registry.load("training", "recipe").load(
        recipe, [*changes, *([f"saving.output={output}"] if output else [])]
    )
    if extend and resume is False:
        raise UsageError("--extend continues a run, --fresh deletes it: give one of them")
    if (resume or extend) and not (settings.output / "checkpoints").is_dir():
        raise UsageError(f"{settings.output} has no checkpoint to continue from")
    loop, progress = registry.load("training", "loop"), registry.load("training", "progress")
    line = progress.StreamMeter(sys.stderr)
    main_process = int(os.environ.get("RANK", "0")) == 0
    with _Messages(line, main_process):
        result = loop.train(settings, fresh=resume is False, extend=extend, stop_at=stop_at, meter=line)
        line.clear()
    if not main_process:
        return
    if result.finished:
        click.echo(str(result.folder / "model"))
    elif stop_at is None:
        sys.exit(130)


class _Messages(logging.Handler):
    """While the command runs, the log of edgekit.training as lines on stderr, between updates of the progress line."""

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
    """`train` alone, for `python -m edgekit.training`: an `EdgekitError` is one line, as in `edgekit`."""
    try:
        train()
    except EdgekitError as error:
        OneLine(error).show()
        sys.exit(error.exit_code)


COMMAND = train
