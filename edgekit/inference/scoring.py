"""Log-probabilities of given tokens, and the token before a text: the basis of every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import RuntimeFailure, UsageError
from edgekit.tokenizers.base import Tokenizer, configured_ids, spelling
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.inference.runtime import Logits, Runtime

BLOCK = 1 << 18
"""Logits worked on at once: 1 MiB, which stays in a core's cache from the subtraction to the sum."""


def log_sum_exp(logits: Logits) -> NDArray[np.float64]:
    """Natural logarithm of the sum of exp(logits) along the last axis: (n, vocab_size) float32 -> (n,) float64.

    Differences and exponentials are float32, of which numpy computes many at once; their sum is pairwise. The result is
    within 1e-6 of float64, since an exponential's error only counts as much as the exponential does.

    Raises:
        RuntimeFailure: a row has no largest number (NaN or infinity): the model is damaged.
    """
    sums = np.empty(len(logits), np.float64)
    rows = max(1, BLOCK // logits.shape[-1])
    for start in range(0, len(logits), rows):
        part = logits[start : start + rows]
        largest = part.max(axis=-1, keepdims=True)
        if not np.isfinite(largest).all():
            raise RuntimeFailure("the model's logits are not finite: it is damaged, or overflows its number type")
        shifted = part - largest
        np.exp(shifted, out=shifted)
        sums[start : start + rows] = largest[:, 0].astype(np.float64) + np.log(shifted.sum(axis=-1), dtype=np.float64)
    return sums


def target_logprobs(logits: Logits, targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Natural log-probabilities of `targets` (n,) under logits (n, vocab_size): (n,) float64. Raises as above."""
    return logits[np.arange(len(targets)), targets].astype(np.float64) - log_sum_exp(logits)


def prefix_id(tokenizer: Tokenizer, runtime: Runtime, which: str) -> int | None:
    """The token to put before a text, or None.

    Args:
        which: one of `eval_settings.PREFIXES`, or an id as digits.

            model: BOS if the model's prompts begin with it, else EOS, which packed training data has between its
                documents; None if there is neither.
            lm-eval: lm-evaluation-harness's `prefix_token_id`: the tokenizer's BOS if it has one, else its EOS. Where
                a BOS is declared that training never used (Stentor2's, for one), this is that BOS.
            bos, eos, none: that token, or no token.

    Raises:
        UsageError: the model has no such token, or the id is outside the vocabulary.
    """
    if which == "none":
        return None
    if which.isdecimal():
        if int(which) >= runtime.vocab_size:
            raise UsageError(f"prefix {which} is outside the vocabulary of {runtime.vocab_size}")
        return int(which)
    bos, eos = declared(tokenizer, runtime, "bos"), declared(tokenizer, runtime, "eos")
    if which == "model":
        return eos if tokenizer.bos is None else tokenizer.bos
    token = {"lm-eval": eos if bos is None else bos, "bos": bos, "eos": eos}[which]
    if token is None:
        missing = "neither BOS nor EOS" if which == "lm-eval" else f"no {which.upper()}"
        raise UsageError(f"the model has {missing} to put before a text: choose another --prefix, an id or none")
    return token


def first_token(tokenizer: Tokenizer, runtime: Runtime) -> int | None:
    """The token that a text without a prompt begins with; None if the model has neither BOS nor EOS.

    BOS if prompts begin with it; else the configured `bos_token_id`, as in transformers' `generate()` without
    `input_ids`; else the tokenizer's BOS; else EOS.
    """
    if tokenizer.bos is not None:
        return tokenizer.bos
    configured = [id for id in configured_ids(runtime.files, "bos_token_id") if id < runtime.vocab_size]
    if configured:
        return configured[0]
    bos = declared(tokenizer, runtime, "bos")
    return declared(tokenizer, runtime, "eos") if bos is None else bos


def declared(tokenizer: Tokenizer, runtime: Runtime, name: str) -> int | None:
    """The id of "bos" or "eos", whether or not prompts begin with it; None if there is none.

    As in transformers the tokenizer's spelling comes first, then the ids in the configurations.
    """
    files = runtime.files
    if spelled := spelling(files, f"{name}_token"):
        ids = tokenizer.encode(spelled, specials=True)
        if len(ids) == 1:
            return ids[0]
    if name == "bos" and tokenizer.bos is not None:
        return tokenizer.bos
    configured = [id for id in configured_ids(files, f"{name}_token_id") if id < runtime.vocab_size]
    if configured:
        return configured[0]
    return min(tokenizer.stop, default=None) if name == "eos" else None


MOST_LOGITS = 1 << 24
"""Logits computed at once, 64 MiB: 2,080 tokens of an 8,064-token vocabulary, 128 of one of 128,000."""


Window = tuple[Sequence[int], int]
"""Token ids, and the index (at least 1) from which they are scored, each given all before it."""


def blockwise(ids: Sequence[int], context: int, prefix: int | None) -> Iterator[Window]:
    """Separate windows of `context` tokens; the last may be shorter.

    The prefix is extra: the model is never fed a window's last token, so it still sees `context` at most.
    """
    before = [] if prefix is None else [prefix]
    for start in range(0, len(ids), context):
        yield [*before, *ids[start : start + context]], 1


def strided(ids: Sequence[int], context: int, prefix: int | None, stride: int) -> Iterator[Window]:
    """Windows of `context` tokens that begin `stride` apart, as in Hugging Face's guide.

    With stride = context the first token of each window is not scored, as there.
    """
    ids = ids if prefix is None else [prefix, *ids]
    done = 0
    for start in range(0, len(ids), stride):
        end = min(start + context, len(ids))
        yield ids[start:end], max(1, done - start)
        done = end
        if end == len(ids):
            return


def rolling(ids: Sequence[int], context: int, prefix: int | None) -> Iterator[Window]:
    """lm-evaluation-harness's windows with context_len = 1; without prefix the first token takes its place."""
    ids = ids if prefix is None else [prefix, *ids]
    for done in range(1, len(ids), context):
        end = min(done + context, len(ids))
        start = max(0, end - context - 1)
        yield ids[start:end], done - start


def window_logprobs(runtime: Runtime, window: Sequence[int], first: int = 1) -> np.ndarray:
    """Natural log-probabilities of window[first:], each given all before it: float64 (len(window) - first,).

    Logits are computed only where they are needed, and in parts if the vocabulary is large. A model whose results
    depend on how many tokens come at once (dynamic int8) gives slightly different ones in parts.

    Raises:
        ContextError: the window has more than context_length + 1 tokens.
        RuntimeFailure: the logits are not finite.
    """
    runtime.rewind(0)
    fed = window[:-1]
    if first > 1:
        runtime.forward(fed[: first - 1])
    size = max(1, MOST_LOGITS // runtime.vocab_size)
    targets = np.asarray(window)
    logprobs = []
    for start in range(first - 1, len(fed), size):
        part = fed[start : start + size]
        logits = runtime.forward(part, every=True)
        logprobs.append(target_logprobs(logits, targets[start + 1 : start + 1 + len(part)]))
    return np.concatenate(logprobs)
