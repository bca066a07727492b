"""What the doctor reports: findings, and helpers for their texts."""

from collections.abc import Iterable
from dataclasses import dataclass

LEVELS = ("error", "warning", "note")
"""edgekit cannot use the model; other tools fail, or the text gets worse; good to know."""


@dataclass(frozen=True)
class Finding:
    """One unusual thing about a model."""

    level: str
    """One of `LEVELS`."""
    what: str
    consequence: str
    """What edgekit and other tools will do."""
    cure: str = ""
    """How to fix it; empty if nothing needs to be done."""
    name: str = ""
    """The check's name, for machines: `tied-head`."""


def error(what: str, consequence: str, cure: str) -> Finding:
    return Finding("error", what, consequence, cure)


def warning(what: str, consequence: str, cure: str) -> Finding:
    return Finding("warning", what, consequence, cure)


def note(what: str, consequence: str, cure: str = "") -> Finding:
    return Finding("note", what, consequence, cure)


def some(things: Iterable[object], most: int = 3) -> str:
    """`a, b, c and 4 more`: a folder can have the same problem a thousand times."""
    listed = [" ".join(str(thing).split())[:100] for thing in things]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def counted(number: int, thing: str) -> str:
    """`1 tensor`, `1,234 tensors`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
