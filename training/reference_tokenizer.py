"""The published `tokenmonster` package, to compare edgekit's tokenizer with.

The package communicates with a Go program, which it downloads at first use; `load` raises if that is impossible.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import tokenmonster

from edgekit.errors import MissingExtraError
from edgekit.utils import registry, temporaries

PATIENCE = 60.0
"""Seconds in which the package must have downloaded and started its server."""


class Reference:
    """A vocabulary in the reference's server, with the `encode` and `decode` of `edgekit.Vocabulary`."""

    def __init__(self, vocabulary: Any):
        self._vocabulary = vocabulary

    def encode(self, text: str) -> list[int]:
        ids = self._vocabulary.tokenize(text)
        return [] if ids is None else [int(id) for id in ids]  # it returns None for an empty text

    def decode(self, ids: Iterable[int]) -> str:
        return self._vocabulary.decode(list(ids)) or ""


def load(vocabulary: bytes, *, patience: float = PATIENCE) -> Reference:
    """Load the content of a `.vocab` file into the reference's server.

    Raises:
        MissingExtraError: the server cannot be downloaded or started, or did not answer within `patience` seconds.
    """
    with temporaries.scratch() as folder:
        path = folder / "reference.vocab"
        path.write_bytes(vocabulary)
        return Reference(_within(patience, lambda: tokenmonster.load(str(path))))


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of `call`, which runs in a thread: the package's downloads and pipes have no time limits."""
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # it also raises SystemExit
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if outcome and outcome[0][0]:
        return outcome[0][1]
    reason = f"{type(outcome[0][1]).__name__}: {outcome[0][1]}" if outcome else f"no answer in {seconds:g} seconds"
    reason = " ".join(reason.split())
    raise MissingExtraError(
        f"the reference tokenizer's server cannot be started ({reason}); with a network: "
        f"{registry.install_command('train')}"
    )
