"""One chain from logits to a token, in numpy, for every runtime.

Order and meaning are those of Hugging Face `generate` (transformers `generation/logits_process.py`): repetition
penalty over prompt and text so far, bias and bans, temperature, top-k, top-p, min-p, one draw. The same seed
therefore gives the same tokens wherever the logits agree.

The draw is a race: each token left has a uniform number u(seed, step, id), and the least -ln(u) / probability wins
(the Gumbel-max trick: the winner is distributed as the probabilities say). Runtimes round differently, so their
probabilities differ by 1e-6 or so. A race is then decided otherwise only if two tokens run that close; drawing
from cumulated probabilities would shift every border between two tokens, and a token more or less at top-p's edge
would shift them all.

`uniform` has no state and no table, so that any language can draw the same: it is splitmix64 (Steele, Lea, Flood 2014)
over seed, then step, then id.
"""

import secrets
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import SettingError
from edgekit.settings import Sampling

# Top-p rarely needs more tokens than these; looking at so few first saves sorting the whole vocabulary.
FIRST_LOOKS = (128, 1024)


def apply_repetition_penalty(logits: NDArray[np.float32], ids: NDArray[np.intp], penalty: float) -> None:
    """In place: each id once, negative logits multiplied and others divided (`RepetitionPenaltyLogitsProcessor`)."""
    found = logits[ids]
    factor = np.float32(penalty)
    logits[ids] = np.where(found < 0, found * factor, found / factor)


def keep_top_k(logits: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Ascending ids of the k largest logits, and of all that tie with the smallest of them (`TopKLogitsWarper`)."""
    if k >= logits.size:
        return np.arange(logits.size)
    threshold = np.partition(logits, logits.size - k)[logits.size - k]
    return np.flatnonzero(logits >= threshold)


def keep_top_p(probabilities: NDArray[np.float64], p: float) -> NDArray[np.intp]:
    """Ascending places of the fewest largest probabilities that reach p (`TopPLogitsWarper`).

    A token stays if those before it, in descending order, sum to less than p; the first always does.
    """
    places = np.arange(probabilities.size)
    for few in FIRST_LOOKS:
        if few < probabilities.size / 2:
            # A threshold is cheaper to find than an order: sort only what reaches it, ties and all.
            likely = np.flatnonzero(probabilities >= np.partition(probabilities, -few)[-few])
            if probabilities[likely].sum() > p + 1e-9:
                places = likely
                break
    order = places[np.argsort(-probabilities[places], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    keep = before < p
    keep[0] = True
    return np.sort(order[keep])


def softmax(logits: NDArray) -> NDArray[np.float64]:
    """Along the last axis, in float64; minus infinity becomes 0."""
    shifted = np.exp(np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def log_softmax(logits: NDArray) -> NDArray[np.float64]:
    """Along the last axis, in float64."""
    shifted = np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


GAMMA = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def mix(x: int) -> int:
    """splitmix64's finalizer: 64 bits in, 64 bits out."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def uniform(seed: int, step: int, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    """A number in (0, 1) for each id, a pure function of its three arguments.

    (mix(s + GAMMA (id + 1)) >> 11 + 1/2) / 2^53, with s = mix(mix(seed) + GAMMA (step + 1)), all modulo 2^64.
    """
    start = np.uint64(mix((mix(seed & MASK) + GAMMA * (step + 1)) & MASK))
    x = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


class Sampler:
    """The chain for one text: it remembers what was said, and how many tokens it drew.

    Args:
        settings: see `Sampling`.
        vocab_size: length of the logits.
        seen: ids of the prompt, which the repetition penalty counts too.

    Raises:
        SettingError: an id of `logit_bias` or `banned` lies outside the vocabulary.
    """

    def __init__(self, settings: Sampling, vocab_size: int, seen: Iterable[int] = ()):
        self.settings = settings
        self.seed = secrets.randbits(32) if settings.seed is None else settings.seed
        self._step = 0
        self._seen = np.zeros(vocab_size, dtype=bool)
        self._seen[list(seen)] = True
        for name, ids in (("logit_bias", settings.logit_bias), ("banned", settings.banned)):
            for token in ids:
                if not 0 <= token < vocab_size:
                    raise SettingError(f"{name}: token id {token} is outside the vocabulary of {vocab_size}")
        self._bias_ids = np.array(list(settings.logit_bias), dtype=np.intp)
        self._bias = np.array(list(settings.logit_bias.values()), dtype=np.float32)
        self._banned = np.array(settings.banned, dtype=np.intp)

    def distribution(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """What the next token is drawn from: ascending ids (n,) and their probabilities (n,), which sum to 1.

        At temperature 0 it is the likeliest token alone, the lowest id among equals. `allowed` (vocab_size,)
        masks ids for this step. Raises `SettingError` if nothing may follow.
        """
        s = self.settings
        logits = self._processed(logits, allowed)
        if s.temperature == 0:
            return np.array([logits.argmax()]), np.ones(1)
        logits /= np.float32(s.temperature)
        ids = keep_top_k(logits, s.top_k) if s.top_k else np.arange(logits.size)
        probabilities = softmax(logits[ids])
        if s.top_p < 1:
            kept = keep_top_p(probabilities, s.top_p)
            ids, probabilities = ids[kept], probabilities[kept]
        if s.min_p > 0:
            kept = probabilities >= s.min_p * probabilities.max()
            ids, probabilities = ids[kept], probabilities[kept]
        return ids, probabilities / probabilities.sum()

    def choose(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token, remembered for the repetition penalty. Raises as `distribution`."""
        ids, probabilities = self.distribution(logits, allowed)
        token = int(ids[0])
        if self.settings.temperature > 0:
            token = int(ids[np.argmin(-np.log(uniform(self.seed, self._step, ids)) / probabilities)])
            self._step += 1
        self._seen[token] = True
        return token

    def _processed(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """A copy of the logits after penalty, bias and bans."""
        logits = logits.astype(np.float32, copy=True)
        if self.settings.repetition_penalty != 1:
            apply_repetition_penalty(logits, np.flatnonzero(self._seen), self.settings.repetition_penalty)
        logits[self._bias_ids] += self._bias
        logits[self._banned] = -np.inf
        if allowed is not None:
            logits[~allowed] = -np.inf
        # One pass finds NaN, +inf, and a row in which everything is banned.
        if not np.isfinite(logits.max()):
            if np.isnan(logits).any() or (logits == np.inf).any():
                raise SettingError("the logits are not finite: a logit_bias is too large, or the model is damaged")
            raise SettingError("every token is banned: nothing can follow")
        return logits
