"""What `edgekit convert` does before it writes: `--plan`, `--sensitivity`, `--target-size`, `--max-kl`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.conversion import plan, search
from edgekit.conversion import sensitivity as measuring
from edgekit.errors import FileError
from edgekit.formats.open import open_model
from edgekit.settings import Choosing, Converting
from edgekit.utils import registry


def show(where: Path, to: str | None, settings: Converting, sensitivity: bool, as_json: bool) -> None:
    """Print what `convert` would write and, with `sensitivity`, what each group of tensors loses."""
    checkpoint, targets = open_model(where), [registry.ALIASES.get(to, to)] if to else plan.targets()
    rows = [row for target in targets for row in plan.plan(checkpoint, target, settings)]
    measured = {}
    if sensitivity:
        measured = {t: measuring.sensitivity(checkpoint, t, settings, flags.progress) for t in targets}
    if as_json:
        record: dict[str, Any] = {"types": [row.record() for row in rows]}
        if measured:
            record["sensitivity"] = {t: [group.record() for group in groups] for t, (groups, _) in measured.items()}
        click.echo(json.dumps(record))
        return
    parts = [plan.report(checkpoint, rows)]
    parts += [measuring.report(groups, expected, target) for target, (groups, expected) in measured.items()]
    click.echo("\n\n".join(parts))


def choose(
    where: Path, to: str, output: Path | None, settings: Converting, choosing: Choosing, force: bool, as_json: bool
) -> tuple[Converting, dict[str, Any]]:
    """The settings with the type that was chosen by measuring, and the candidates, for JSON.

    Raises:
        FileError: the output exists; checked here because measuring takes long.
        EdgekitError: as `edgekit.conversion.search.choose`.
    """
    if output is not None and output.exists() and not force:
        raise FileError(f"{output} exists already: add --force to replace it, or name another file with -o")
    choice = search.choose(open_model(where), registry.ALIASES.get(to, to), settings, choosing, flags.progress)
    if not as_json:
        click.echo(search.report(choice) + "\n", err=True)
    return dataclasses.replace(settings, quant=choice.quant, importance=choice.importance), {"choice": choice.record()}
