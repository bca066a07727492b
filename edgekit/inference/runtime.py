"""The whole contract of a backend: append tokens and get logits, or take tokens back.

A file `runtimes/NAME.py` is a runtime if it has `SUFFIX` (the artefact it opens: ".onnx", ".gguf", or "" for a
model folder) and `load(path, settings) -> Runtime`. Its backend's own sampler, tokenizer and loop stay unused.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ContextError, RuntimeFailure

Logits = NDArray[np.float32]


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
