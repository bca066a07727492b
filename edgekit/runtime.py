"""The whole contract of a backend: append tokens and get logits, or take tokens back.

A file `runtimes/NAME.py` is a runtime if it has `SUFFIX` (the artefact it opens: ".onnx", ".gguf", or "" for a
model folder) and `load(path, settings) -> Runtime`. Its backend's own sampler, tokenizer and loop stay unused.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ContextError, RuntimeFailure

Logits = NDArray[np.float32]

WEIGHTS_A_THREAD = 16 << 20


class Runtime(Protocol):
    """One loaded model and the one sequence in its KV cache."""

    vocab_size: int
    context_length: int
    length: int
    """Tokens now in the cache."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What lies beside the weights, by Hugging Face's file names: config.json, tokenizer files, ..."""
        ...

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens and return float32 logits, an array that the caller owns.

        Shape (vocab_size,), for what follows the last token; or (len(tokens), vocab_size), after each of them,
        if `every`. Many tokens is a prefill, one is a decode step.

        Raises:
            ContextError: the cache would grow past `context_length`; nothing was appended.
            RuntimeFailure: no tokens, an id outside the vocabulary, or the backend failed.
        """
        ...

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens (0: forget all). Raises `RuntimeFailure` if there are fewer."""
        ...


def check_forward(runtime: Runtime, tokens: Sequence[int]) -> None:
    """The checks that every runtime makes before it appends; raises as `Runtime.forward` says."""
    if len(tokens) == 0:
        raise RuntimeFailure("forward needs at least one token")
    if min(tokens) < 0 or max(tokens) >= runtime.vocab_size:
        wrong = next(t for t in tokens if not 0 <= t < runtime.vocab_size)
        raise RuntimeFailure(f"token id {wrong} is outside the vocabulary of {runtime.vocab_size}")
    if runtime.length + len(tokens) > runtime.context_length:
        raise ContextError(
            f"{runtime.length + len(tokens)} tokens do not fit into the context of {runtime.context_length}"
        )


def check_rewind(runtime: Runtime, length: int) -> None:
    """Raises `RuntimeFailure` unless 0 <= length <= runtime.length."""
    if not 0 <= length <= runtime.length:
        raise RuntimeFailure(f"cannot keep {length} of {runtime.length} cached tokens")


def physical_cores() -> int:
    """The physical cores that this process may use.

    Hyper-threads share one core's arithmetic units, so they are not counted where Linux tells them apart.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings.strip())
    return max(1, len(cores))


def choose_threads(threads: int | str | None, weights: int) -> int:
    """The number of threads for a setting that may be none or a word, and a model of so many bytes of weights.

    What `edgekit.tuning` has measured comes before this rule.

    By default one for each 16 MB of weights begun, at most four and at most the physical cores. A step through a
    small model is over before a second thread has woken: at 12.3M parameters on two cores the second one made
    float32 (49 MB) 1.1 to 1.5 times as fast, q8_0, q4_0 and int8 (8 to 13 MB) 0.8 to 1.1 times; and threads that wait
    for each other fall far behind as soon as another program wants a core.
    """
    if isinstance(threads, int):
        return threads
    return max(1, min(4, physical_cores(), -(-weights // WEIGHTS_A_THREAD)))
