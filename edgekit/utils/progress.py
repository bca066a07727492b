"""Progress of a loop, as the library reports it and the command line shows it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Progress = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Wraps a loop: (items, what they are, how many) -> the same items. The command line draws a bar."""


def silent(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
    """The progress that says nothing."""
    yield from items
