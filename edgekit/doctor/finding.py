"""What the doctor says, and the list of what it looks for.

A new finding is one small function in the file it belongs to:

    @check("folder", "gguf")
    def odd_thing(case: Case) -> Iterator[Finding]:
        if case.config.get("odd"):
            yield warning("config.json has the odd thing", "such and such programs stumble over it", "take it out")

It is called for every model of those kinds, with a `Case` in which anything may be missing; `tests/test_doctor.py`
asks for a model that has it. Nothing else needs to know of it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgekit.doctor.case import Case

LEVELS = ("error", "warning", "note")
"""edgekit cannot use it; other tools stumble, or the text suffers; good to know."""

KINDS = ("folder", "gguf", "onnx")


@dataclass(frozen=True)
class Finding:
    """One thing that is unusual in a model."""

    level: str
    """One of `LEVELS`."""
    what: str
    consequence: str
    """What edgekit and other tools will do."""
    cure: str = ""
    """Empty where nothing needs to be done."""
    name: str = ""
    """Of the check, for machines: `tied-head`."""


def error(what: str, consequence: str, cure: str) -> Finding:
    return Finding("error", what, consequence, cure)


def warning(what: str, consequence: str, cure: str) -> Finding:
    return Finding("warning", what, consequence, cure)


def note(what: str, consequence: str, cure: str = "") -> Finding:
    return Finding("note", what, consequence, cure)


class Check(NamedTuple):
    """One entry of the list: `function` yields what it finds in a case of one of `kinds`."""

    name: str
    kinds: tuple[str, ...]
    function: "Callable[[Case], Iterator[Finding]]"


CHECKS: list[Check] = []


def check(*kinds: str) -> "Callable[[Callable[[Case], Iterator[Finding]]], Callable[[Case], Iterator[Finding]]]":
    """Put a function on the list, for these kinds of models (all, if none is named)."""

    def register(function: "Callable[[Case], Iterator[Finding]]") -> "Callable[[Case], Iterator[Finding]]":
        CHECKS.append(Check(function.__name__.replace("_", "-"), kinds or KINDS, function))
        return function

    return register


def some(things: Iterable[object], most: int = 3) -> str:
    """`a, b, c and 4 more`: a folder can have a thousand of the same trouble."""
    listed = [" ".join(str(thing).split())[:100] for thing in things]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def counted(number: int, thing: str) -> str:
    """`1 tensor`, `1,234 tensors`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
