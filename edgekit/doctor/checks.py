"""The list of checks, and how to add one.

A new check is one small function in the file of its topic:

    @check("folder", "gguf")
    def odd_thing(case: Case) -> Iterator[Finding]:
        if case.config.get("odd"):
            yield warning("config.json has the odd thing", "which programs fail, and how", "remove it")

It is called for every model of those kinds, with a `Case` in which anything may be missing. `tests/test_doctor.py`
requires a model that has the fault. Nothing else needs to be changed.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from edgekit.doctor.case import Case
from edgekit.doctor.finding import Finding

KINDS = ("folder", "gguf", "onnx")


class Check(NamedTuple):
    """One entry of the list: `function` yields its findings for a case of one of `kinds`."""

    name: str
    kinds: tuple[str, ...]
    function: Callable[[Case], Iterator[Finding]]


CHECKS: list[Check] = []


def check(*kinds: str) -> Callable[[Callable[[Case], Iterator[Finding]]], Callable[[Case], Iterator[Finding]]]:
    """Add a function to the list, for these kinds of models (all if none is named)."""

    def register(function: Callable[[Case], Iterator[Finding]]) -> Callable[[Case], Iterator[Finding]]:
        CHECKS.append(Check(function.__name__.replace("_", "-"), kinds or KINDS, function))
        return function

    return register
