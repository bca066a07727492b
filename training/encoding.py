"""Cleaning and encoding documents: in this process while they are few, in one process a core once they are many.

The processes are this very file, run with `-m` and spoken to over pipes. (multiprocessing would import the caller's
main module into each: a script without a guard would train in all of them, and one read from stdin could not start.)
"""

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import TrainingError
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training.text import Document, clean

BATCH = 1 << 20
"""Characters that a process is handed at once."""
SMALL = 1 << 23
"""Characters below which starting processes costs more than it gains."""

Encode = Callable[[list[str]], list[tuple[bytes, int]]]
"""Texts -> for each its ids as uint16 with BOS and EOS, and the UTF-8 length of the cleaned text."""


def encoder(vocabulary: Vocabulary, cleaning: str, bos: int | None, eos: int) -> Encode:
    """The work itself, in this process. `bos` None: documents begin with their first token."""
    from edgekit.training.fast_tokenizer import FastEncoder  # here: whoever finds finished shards needs no numba

    fast = FastEncoder(vocabulary)
    begin = b"" if bos is None else np.array([bos], np.uint16).tobytes()
    end = np.array([eos], np.uint16).tobytes()

    def encode(texts: list[str]) -> list[tuple[bytes, int]]:
        made = []
        for text in texts:
            cleaned = clean(text, cleaning).encode("utf-8", "replace")  # lone surrogates become ?
            made.append((begin + fast.encode(cleaned).astype(np.uint16).tobytes() + end, len(cleaned)))
        return made

    return encode


class Encoders:
    """`with Encoders(...) as encode: for document, ids, length in encode(documents): ...`, in order.

    Args:
        workers: processes to use at most; None: one a core.

    Raises:
        TrainingError: a process died.
    """

    def __init__(self, vocabulary: Vocabulary, cleaning: str, bos: int | None, eos: int, workers: int | None):
        self.args = (vocabulary, cleaning, bos, eos)
        self.workers = workers or os.cpu_count() or 1
        self.here: Encode | None = None
        self.processes: list[subprocess.Popen] = []
        self.idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()

    def __enter__(self) -> Callable[[Iterable[Document]], Iterator[tuple[Document, NDArray[np.uint16], int]]]:
        return self._encoded

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()  # they hold nothing; waiting for the end of a batch would only delay an error
            process.communicate()

    def _encoded(self, source: Iterable[Document]) -> Iterator[tuple[Document, NDArray[np.uint16], int]]:
        batches, characters = _batches(source), 0
        for batch in batches:
            if self.here is None:
                self.here = encoder(*self.args)
            yield from _join(batch, self.here([d.text for d in batch]))
            characters += sum(len(d.text) for d in batch)
            if self.workers > 1 and (self.processes or characters > SMALL):
                yield from self._in_processes(batches)
                return

    def _in_processes(self, batches: Iterable[list[Document]]) -> Iterator[tuple[Document, NDArray[np.uint16], int]]:
        if not self.processes:
            self._start()
        waiting: list[tuple[list[Document], Future]] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for batch in itertools.chain(batches, [None]):
                if batch is not None:
                    waiting.append((batch, pool.submit(self._ask, [d.text for d in batch])))
                while waiting and (batch is None or len(waiting) > 2 * self.workers):
                    first, future = waiting.pop(0)
                    yield from _join(first, future.result())

    def _start(self) -> None:
        vocabulary, *rest = self.args
        for _ in range(self.workers):
            process = subprocess.Popen(
                [sys.executable, "-m", "edgekit.training.encoding"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self.processes.append(process)
            with contextlib.suppress(BrokenPipeError):  # it will be told when it is asked
                _send(process.stdin, (vocabulary.to_bytes(), *rest))
            self.idle.put(process)

    def _ask(self, texts: list[str]) -> list[tuple[bytes, int]]:
        process = self.idle.get()
        try:
            _send(process.stdin, texts)
            return pickle.load(process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise TrainingError(f"a tokenizing process died (status {process.poll()}); try --set workers=1") from error
        finally:
            self.idle.put(process)


def _send(stream: Any, value: Any) -> None:
    pickle.dump(value, stream)
    stream.flush()


def _batches(source: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in source:
        batch.append(document)
        size += len(document.text)
        if size > BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _join(
    batch: list[Document], encoded: list[tuple[bytes, int]]
) -> Iterator[tuple[Document, NDArray[np.uint16], int]]:
    for document, (ids, length) in zip(batch, encoded, strict=True):
        yield document, np.frombuffer(ids, np.uint16), length


def _serve() -> None:
    """One process: arguments first, then lists of texts, until its stdin ends."""
    given, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        vocabulary, *rest = pickle.load(given)
        encode = encoder(Vocabulary.from_bytes(vocabulary), *rest)
        while True:
            _send(answers, encode(pickle.load(given)))


if __name__ == "__main__":
    _serve()
