"""Log-probabilities of given tokens, and the token that stands before a text: what every evaluation is made of."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RuntimeFailure, UsageError
from edgekit.runtime import Logits
from edgekit.tokenizers.base import configured_ids, spelling

if TYPE_CHECKING:
    from edgekit.model import Model

BLOCK = 1 << 18
"""Logits worked on at once: 1 MiB, which stays in a core's cache from the subtraction to the sum."""


def log_sum_exp(logits: Logits) -> NDArray[np.float64]:
    """Natural logarithm of the sum of exp(logits) along the last axis: (n, vocab_size) float32 -> (n,) float64.

    Differences and exponentials are float32, of which numpy computes many at once; their sum is pairwise. That is
    within 1e-6 of float64 throughout, since an exponential's error counts only as far as the exponential does.

    Raises:
        RuntimeFailure: a row has no largest number (NaN or infinity): the model is damaged.
    """
    found = np.empty(len(logits), np.float64)
    rows = max(1, BLOCK // logits.shape[-1])
    for start in range(0, len(logits), rows):
        part = logits[start : start + rows]
        largest = part.max(axis=-1, keepdims=True)
        if not np.isfinite(largest).all():
            raise RuntimeFailure("the model's logits are not finite: it is damaged, or overflows its number type")
        shifted = part - largest
        np.exp(shifted, out=shifted)
        found[start : start + rows] = largest[:, 0].astype(np.float64) + np.log(shifted.sum(axis=-1), dtype=np.float64)
    return found


def target_logprobs(logits: Logits, targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Natural log-probabilities of `targets` (n,) under logits (n, vocab_size): (n,) float64. Raises as above."""
    return logits[np.arange(len(targets)), targets].astype(np.float64) - log_sum_exp(logits)


def prefix_id(model: "Model", which: str) -> int | None:
    """The token to put before a text, or None.

    Args:
        which: one of `eval_settings.PREFIXES`, or an id as digits.

            model: BOS if the model's own texts begin with it, else EOS, which packed training data has between its
                documents; None if there is neither.
            lm-eval: lm-evaluation-harness's `prefix_token_id`: the tokenizer's BOS if it has one, else its EOS. Where
                a BOS is declared that training never used (Stentor2's, for one), this is that BOS.
            bos, eos, none: as they say.

    Raises:
        UsageError: the model has no such token, or the id is outside the vocabulary.
    """
    if which == "none":
        return None
    if which.isdecimal():
        if int(which) >= model.runtime.vocab_size:
            raise UsageError(f"prefix {which} is outside the vocabulary of {model.runtime.vocab_size}")
        return int(which)
    bos, eos = declared(model, "bos"), declared(model, "eos")
    if which == "model":
        return eos if model.tokenizer.bos is None else model.tokenizer.bos
    found = {"lm-eval": eos if bos is None else bos, "bos": bos, "eos": eos}[which]
    if found is None:
        missing = "neither BOS nor EOS" if which == "lm-eval" else f"no {which.upper()}"
        raise UsageError(f"the model has {missing} to put before a text: choose another --prefix, an id or none")
    return found


def declared(model: "Model", name: str) -> int | None:
    """The id of "bos" or "eos", whether or not the model puts it anywhere by itself; None if there is none.

    As in transformers the tokenizer's spelling counts first, then what the configurations call it.
    """
    files, tokenizer = model.runtime.files, model.tokenizer
    if spelled := spelling(files, f"{name}_token"):
        ids = tokenizer.encode(spelled, specials=True)
        if len(ids) == 1:
            return ids[0]
    if name == "bos" and tokenizer.bos is not None:
        return tokenizer.bos
    configured = [id for id in configured_ids(files, f"{name}_token_id") if id < model.runtime.vocab_size]
    if configured:
        return configured[0]
    return min(tokenizer.stop, default=None) if name == "eos" else None
