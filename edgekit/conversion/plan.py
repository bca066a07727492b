"""What a conversion would write, before anything is written: `edgekit convert --plan`.

    for row in plan(open_model(folder), "gguf"):
        row.quant, row.bytes, row.bits_per_weight

The sizes are the converters' own arithmetic, exact to the byte, receipt included. `search.py` finds the type for a size
or for a loss by measuring, `sensitivity.py` shows which tensors lose most.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.conversion.base import Planned, PlansSizes, converter
from edgekit.conversion.checks import check_format, check_importance
from edgekit.errors import SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.settings import Converting
from edgekit.utils import registry
from edgekit.utils.tables import table

SHOWN = 5_000
"""Bytes; less would be 0.00 MB in the table."""


@dataclass(frozen=True)
class Row:
    """An artefact that could be written."""

    to: str
    quant: str
    bytes: int | None
    """Size of the file, receipt included; None if it cannot be written on this machine."""
    bits_per_weight: float | None
    """All bits of the tensors, scales included, over the number of the source's parameters."""
    types: dict[str, int]
    """Bytes by type of tensor, the most first."""
    note: str

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("to", "quant", "bytes", "bits_per_weight", "types", "note")
        return {name: getattr(self, name) for name in names}


def targets() -> list[str]:
    """The converters that write a single file, whose sizes can be planned."""
    return [name for name in registry.names("converters") if registry.suffix("converters", name)]


def plan(checkpoint: Checkpoint, to: str, settings: Converting | None = None) -> list[Row]:
    """A row for each quantization of a converter, in its own order.

    Args:
        settings: all but `quant` is used.

    Raises:
        UnknownPluginError: no such converter.
        SettingError: a converter that does not write a single file, or a setting that does not apply to it.
        MissingExtraError: the converter needs a package; if only some types need it, their `note` names it.
    """
    rows, weights = sizes(checkpoint, to, settings or Converting()), sum(t.size for _, t in checkpoint)
    return [_row(to, row, weights) for row in rows]


def sizes(checkpoint: Checkpoint, to: str, settings: Converting) -> list[Planned]:
    """The converter's own rows. Raises as `plan`."""
    module = converter(check_format(to))
    if not isinstance(module, PlansSizes):
        raise SettingError(f"{to} has no types to plan with: choose from {', '.join(targets())}")
    check_importance(to, settings)
    return list(module.sizes(checkpoint, settings))


def _row(to: str, row: Planned, weights: int) -> Row:
    types: dict[str, int] = {}
    for tensor in row.tensors:
        types[tensor.type] = types.get(tensor.type, 0) + tensor.bytes
    ordered = dict(sorted(types.items(), key=lambda item: -item[1]))
    bits = 8 * sum(types.values()) / weights if row.tensors else None
    return Row(to, row.quant, row.bytes, bits, ordered, row.note)


def report(checkpoint: Checkpoint, rows: list[Row]) -> str:
    """The rows as a table in plain text."""
    count = sum(int(np.prod(shape)) for shape in checkpoint.config.shapes().values())
    cells = [
        [
            row.to,
            row.quant,
            "-" if row.bytes is None else f"{row.bytes / 1e6:.2f}",
            "-" if row.bytes is None else f"{row.bytes:,}",
            "-" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}",
            ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in row.types.items() if size >= SHOWN),
            row.note,
        ]
        for row in rows
    ]
    head = ("format", "type", "MB", "bytes", "bits/weight", "MB by type of tensor", "")
    return f"{checkpoint.name}, {count:,} parameters; nothing is written\n\n" + table(
        head, cells, text_columns=2, markdown=False
    )
