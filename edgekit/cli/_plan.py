"""What `edgekit convert` measures before it writes: `--plan`, `--sensitivity`, `--target-size`, `--max-kl`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.conversion import plan, search
from edgekit.conversion import sensitivity as plan_sensitivity
from edgekit.errors import FileError
from edgekit.formats.open import open_model
from edgekit.settings import Choosing, Converting
from edgekit.utils import registry


def show(where: Path, to: str | None, settings: Converting, sensitivity: bool, as_json: bool) -> None:
    """Print what `convert` would make and, with `sensitivity`, what each group of tensors loses by it."""
    checkpoint, targets = open_model(where), [registry.ALIASES.get(to, to)] if to else plan.targets()
    rows = [row for target in targets for row in plan.plan(checkpoint, target, settings)]
    found = {}
    if sensitivity:
        found = {t: plan_sensitivity.sensitivity(checkpoint, t, settings, flags.progress) for t in targets}
    if as_json:
        groups = {target: [group.record() for group in each] for target, (each, _) in found.items()}
        click.echo(json.dumps({"types": [row.record() for row in rows]} | ({"sensitivity": groups} if found else {})))
        return
    shown = [plan.report(checkpoint, rows)]
    shown += [plan_sensitivity.report(groups, truth, target) for target, (groups, truth) in found.items()]
    click.echo("\n\n".join(shown))


def chosen(
    where: Path, to: str, output: Path | None, settings: Converting, choosing: Choosing, force: bool, as_json: bool
) -> tuple[Converting, dict[str, Any]]:
    """The settings with the type that was found by measuring, and what was tried, for JSON.

    Raises:
        FileError: the output exists, which is better known before the measuring than after it.
        EdgekitError: as `plan_choose.choose`.
    """
    if output is not None and output.exists() and not force:
        raise FileError(f"{output} exists already: add --force to replace it, or name another file with -o")
    choice = search.choose(open_model(where), registry.ALIASES.get(to, to), settings, choosing, flags.progress)
    if not as_json:
        click.echo(search.report(choice) + "\n", err=True)
    return dataclasses.replace(settings, quant=choice.quant, importance=choice.importance), {"choice": choice.record()}
