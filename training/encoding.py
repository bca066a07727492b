"""Clean and encode documents: in this process while there are few, in one process per core once there are many.

The processes run this file with `-m` and communicate over pipes. (multiprocessing would import the caller's main module
into each: a script without a guard would train in all of them, and one read from stdin could not start.)
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

from edgekit.errors import TrainingError, VocabularyError
from edgekit.tokenizers.engine import EngineTokenizer
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training.sources import SourceDocument, clean
from edgekit.utils.engine import library

BATCH = 1 << 20
"""Characters per request to a process."""
SMALL = 1 << 23
"""Up to this many characters, starting processes costs more time than it saves."""

Encode = Callable[[list[str]], list[tuple[bytes, int]]]
"""Texts -> for each the bytes of its uint16 ids with BOS and EOS, and the UTF-8 length of the cleaned text."""
Encoded = tuple[SourceDocument, NDArray[np.uint16], int]
"""A document, its ids with BOS and EOS, and the UTF-8 length of the cleaned text."""


def encoder(vocabulary: Vocabulary, cleaning: str, bos: int | None, eos: int) -> Encode:
    """Encode in this process. Without `bos`, documents begin with their first token."""
    encode_one = _encoder_of(vocabulary)
    begin = b"" if bos is None else np.array([bos], np.uint16).tobytes()
    end = np.array([eos], np.uint16).tobytes()

    def encode(texts: list[str]) -> list[tuple[bytes, int]]:
        encoded = []
        for text in texts:
            cleaned = clean(text, cleaning).encode("utf-8", "replace")  # lone surrogates become ?
            encoded.append((begin + encode_one(cleaned).astype(np.uint16).tobytes() + end, len(cleaned)))
        return encoded

    return encode


def _encoder_of(vocabulary: Vocabulary) -> Callable[[bytes], NDArray[Any]]:
    """The C engine where it is installed: it needs no compilation at the first text, and is faster. Otherwise numba."""
    if (engine := library()) is not None:
        try:
            tokenizer = EngineTokenizer(engine, vocabulary.to_bytes(), bare=True)
            return lambda text: np.frombuffer(tokenizer.encode_array(text), np.uint32)
        except VocabularyError:  # too large for the engine
            pass
    from edgekit.training.fast_tokenizer import FastEncoder  # here: a run that finds finished shards needs no numba

    return FastEncoder(vocabulary).encode


class Encoders:
    """`with Encoders(...) as encode: for document, ids, length in encode(documents): ...`, in order.

    Args:
        workers: the most processes to use; None: one per core.

    Raises:
        TrainingError: a process died.
    """

    def __init__(self, vocabulary: Vocabulary, cleaning: str, bos: int | None, eos: int, workers: int | None):
        self.args = (vocabulary, cleaning, bos, eos)
        self.workers = workers or os.cpu_count() or 1
        self.in_process: Encode | None = None
        self.processes: list[subprocess.Popen] = []
        self.idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()

    def __enter__(self) -> Callable[[Iterable[SourceDocument]], Iterator[Encoded]]:
        return self._encode

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()  # they have nothing to save; waiting for a batch to end would only delay an error
            process.communicate()

    def _encode(self, source: Iterable[SourceDocument]) -> Iterator[Encoded]:
        batches, characters = _batches(source), 0
        for batch in batches:
            if self.in_process is None:
                self.in_process = encoder(*self.args)
            yield from _join(batch, self.in_process([d.text for d in batch]))
            characters += sum(len(d.text) for d in batch)
            if self.workers > 1 and (self.processes or characters > SMALL):
                yield from self._in_processes(batches)
                return

    def _in_processes(self, batches: Iterable[list[SourceDocument]]) -> Iterator[Encoded]:
        if not self.processes:
            self._start()
        waiting: list[tuple[list[SourceDocument], Future]] = []
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
            with contextlib.suppress(BrokenPipeError):  # a process that died is reported when it is asked
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


def _batches(source: Iterable[SourceDocument]) -> Iterator[list[SourceDocument]]:
    batch, size = [], 0
    for document in source:
        batch.append(document)
        size += len(document.text)
        if size > BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _join(batch: list[SourceDocument], encoded: list[tuple[bytes, int]]) -> Iterator[Encoded]:
    for document, (ids, length) in zip(batch, encoded, strict=True):
        yield document, np.frombuffer(ids, np.uint16), length


def _serve() -> None:
    """The main loop of a process: reads its arguments, then lists of texts until stdin ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        vocabulary, *rest = pickle.load(requests)
        encode = encoder(Vocabulary.from_bytes(vocabulary), *rest)
        while True:
            _send(answers, encode(pickle.load(requests)))


if __name__ == "__main__":
    _serve()
