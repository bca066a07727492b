"""One guard for everything that reads foreign bytes.

Readers check shapes, ranges and lengths before they use them, and name what is wrong. Where a parser meets a file that
nobody has thought of, it raises whatever Python raises: a KeyError, an OverflowError, a struct.error. For the user the
file is the reason, not the parser: the guard turns that into one line with the file's name.

A guard could hide our own mistakes. So tests run with EDGEKIT_TRACEBACKS=1, with which only panics are caught, and the
attack of `tests/hostile` counts what was caught by line.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from edgekit.errors import CheckpointError, EdgekitError, FileError

TRACEBACKS = "EDGEKIT_TRACEBACKS"

P = ParamSpec("P")
R = TypeVar("R")


class reading:
    """`with reading(path):` what a parser raises becomes one line that names the file.

    edgekit's own errors, a signal and the end of the program pass. A panic of a library in Rust, which is no
    `Exception`, is caught.

    Args:
        where: the file, for the message.
        error: what is raised.
    """

    def __init__(self, where: object, error: type[EdgekitError] = CheckpointError):
        self.where, self.error = where, error

    def __enter__(self) -> reading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if raised is None or isinstance(raised, EdgekitError):
            return
        if os.environ.get(TRACEBACKS) and not is_panic(raised):
            return
        if isinstance(raised, MemoryError):
            raise self.error(f"{self.where} asks for more memory than there is") from raised
        if isinstance(raised, OSError):
            raise FileError(f"cannot read {self.where}: {raised.strerror or raised}") from raised
        if is_panic(raised) or (isinstance(raised, Exception) and not isinstance(raised, ImportError)):
            raise self.error(f"{self.where} is damaged, or not what edgekit reads ({reason(raised)})") from raised


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust has panicked: pyo3's exception has no class that can be imported."""
    return type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """An exception in a few words: `KeyError: 'bits'`."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:160]}" if text else name


def reads(error: type[EdgekitError] = CheckpointError) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function's first argument, a path, is read under `reading`."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            first: Any = args[0] if args else next(iter(kwargs.values()), "the file")
            with reading(first, error):
                return function(*args, **kwargs)
            raise AssertionError  # `reading` never swallows

        return guarded

    return wrap
