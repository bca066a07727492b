"""The list of what the doctor looks for, and how to put a check on it.

A new one is one small function in the file it belongs to:

    @check("folder", "gguf")
    def odd_thing(case: Case) -> Iterator[Finding]:
        if case.config.get("odd"):
            yield warning("config.json has the odd thing", "such and such programs stumble over it", "take it out")

It is called for every model of those kinds, with a `Case` in which anything may be missing; `tests/test_doctor.py`
asks for a model that has it. Nothing else needs to know of it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from edgekit.doctor.case import Case
from edgekit.doctor.finding import Finding

KINDS = ("folder", "gguf", "onnx")


class Check(NamedTuple):
    """One entry of the list: `function` yields what it finds in a case of one of `kinds`."""

    name: str
    kinds: tuple[str, ...]
    function: Callable[[Case], Iterator[Finding]]


CHECKS: list[Check] = []


def check(*kinds: str) -> Callable[[Callable[[Case], Iterator[Finding]]], Callable[[Case], Iterator[Finding]]]:
    """Put a function on the list, for these kinds of models (all, if none is named)."""

    def register(function: Callable[[Case], Iterator[Finding]]) -> Callable[[Case], Iterator[Finding]]:
        CHECKS.append(Check(function.__name__.replace("_", "-"), kinds or KINDS, function))
        return function

    return register
