"""Progress of a loop, as the library reports it and the command line shows it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Progress = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Wraps a loop: (items, label, number of items) -> the same items. The command line draws a progress bar."""


def silent(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
    """Reports nothing."""
    yield from items
