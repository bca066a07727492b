"""From logits to a token: one sampler, in numpy, for every runtime.

This is the specification. Order and meaning of the steps are those of Hugging Face `generate` (transformers
`generation/logits_process.py`); presence and frequency penalty, which it does not have, are OpenAI's and come after the
repetition penalty. tests/test_sampling.py runs these lines and expects the same ids, probabilities and tokens from
`Sampler`, to the last bit.

    def candidates(logits, s, prompt, text, allowed=None):
        '''Ids that may follow, ascending, and their weights; `logits` is float32 (vocab_size,).'''
        logits = logits.copy()
        penalty = np.float32(s.repetition_penalty)
        for id in set(prompt + text) if penalty != 1 else ():  # each id of prompt and text once
            logits[id] = logits[id] * penalty if logits[id] < 0 else logits[id] / penalty
        # Here come the rules of `processors.py`, if the settings have any.
        for id in set(text):  # the new text alone
            logits[id] -= np.float32(s.presence_penalty + s.frequency_penalty * text.count(id))
        for id, bias in s.logit_bias.items():
            logits[id] += np.float32(bias)
        logits[list(s.banned)] = -np.inf
        if allowed is not None:
            logits[~allowed] = -np.inf
        if s.temperature == 0:  # the most likely, the lowest id among equals
            return np.array([logits.argmax()]), np.ones(1)
        logits = logits / np.float32(s.temperature)
        ids = np.arange(logits.size)
        if 0 < s.top_k < logits.size:  # and all that tie with the k-th
            ids = ids[logits >= np.sort(logits)[-s.top_k]]
        weights = np.exp(logits[ids].astype(np.float64) - logits.max())
        ids, weights = ids[weights > 0], weights[weights > 0]
        if s.top_p < 1:  # the fewest that reach p of the sum; among equals the lower ids
            order = np.argsort(-weights, kind="stable")
            sums = np.cumsum(weights[order])
            kept = np.sort(order[: (sums >= s.top_p * sums[-1]).argmax() + 1])
            ids, weights = ids[kept], weights[kept]
        return ids[weights >= s.min_p], weights[weights >= s.min_p]  # the largest weight is 1

    def draw(ids, weights, seed, step):
        return ids[(-np.log(uniform(seed, step, ids)) / weights).argmin()]

So the same seed gives the same tokens wherever the logits agree.

**The draw is a race.** Each id has a uniform number u(seed, step, id), and the least -ln(u) / weight wins (the
Gumbel-max trick: an id wins as often as its weight says). Runtimes round differently, so their weights differ by 1e-6
or so. A race then ends otherwise only if two ids run that close; drawing from cumulated probabilities would shift every
border between two ids, and one id more or less at the edge of top-p would shift them all. `uniform` has no state and no
table, so that any language can draw the same: it is splitmix64 (Steele, Lea, Flood 2014) over seed, step and id.

**Where the last bit comes from.** Penalties, bias and temperature are applied in float32, as in transformers: in
float64 logits that tie would differ, and with them the edge of top-k. Weights are float64 and drawn from as they are;
dividing them by their sum would round each once more. The edge of top-p depends on the order of addition: descending,
lower ids first. `Sampler` adds in a faster order and looks how close the sum comes to p; where only the specified order
could tell (`MARGIN`), it adds again in that order. `uniform` is exact integer arithmetic.
"""

import functools
import math
import os
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import SettingError
from edgekit.inference.processors import Processors
from edgekit.settings import Sampling

SORTED_AT_ONCE = 512
"""Up to so many weights are sorted to find the edge of top-p; more are first counted by size."""
SMALLEST = float(np.nextafter(0, 1))
"""The least weight above 0."""
MARGIN = 1e-9
"""Relative difference of two sums; the order of adding changes far less."""

# What `.sum()` and `.max()` end in, without the Python in between.
_sum, _max = np.add.reduce, np.maximum.reduce


def apply_repetition_penalty(logits: NDArray[np.float32], ids: NDArray[np.intp], penalty: float) -> None:
    """In place: each id once, negative logits multiplied and others divided (`RepetitionPenaltyLogitsProcessor`)."""
    old = logits[ids]
    factor = np.float32(penalty)
    # For a penalty above 1 the product is the smaller of the two where the logit is negative, the quotient elsewhere.
    logits[ids] = (np.minimum if factor > 1 else np.maximum)(old * factor, old / factor)


def bound_of_largest(values: NDArray, count: int) -> float:
    """A bound that at least `count` of the values reach, and seldom many more.

    Cheaper than the count-th largest value: it is the count-th largest of the maxima of some groups. At least `count`
    values reach that, and with eight times as many groups as `count` two of the largest are rarely in one group.
    """
    width = min(max(8 * count, values.size // 16), values.size // 4)  # long rows: numpy reduces them one by one
    if 2 * count <= width:
        values = _max(values[: values.size // width * width].reshape(-1, width))
    place = values.size - count
    return np.partition(values, place)[place].item()


def keep_top_k(logits: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Ascending ids of the k largest logits, and of all that tie with the smallest of them (`TopKLogitsWarper`)."""
    if k >= logits.size:
        return np.arange(logits.size)
    ids = (logits >= bound_of_largest(logits, k)).nonzero()[0]
    if ids.size > k:
        largest = logits[ids]
        ids = ids[largest >= np.partition(largest, ids.size - k)[ids.size - k]]
    return ids


def keep_top_p(weights: NDArray[np.float64], p: float, least: float) -> NDArray[np.intp]:
    """Ascending indices of the weights that top-p keeps (`TopPLogitsWarper`), without those below `least`."""
    descending = np.sort(weights)[::-1]
    sums = np.add.accumulate(descending)
    last = int(sums.searchsorted(p * sums[-1]))
    return _down_to(weights, last + 1, descending[last], least)


def keep_top_p_unless_close(weights: NDArray[np.float64], target: float, least: float) -> NDArray[np.intp] | None:
    """`keep_top_p` in a faster order of adding: the largest weights that together reach `target`.

    None if a sum comes so close to the target that only the specified order could tell. `weights` must include all that
    could be kept: those of at least `least`, or enough to reach the target.
    """
    before, above, group = 0.0, 0, weights
    if weights.size > SORTED_AT_ONCE:
        # The bits of a positive float64, read as an integer, grow with the value; the leading ones form classes 1/64
        # octave wide. Adding up each class finds the class of the edge, and only that class is sorted.
        bits = weights.view(np.int64)
        classes = (_max(bits) - bits) >> 46
        masses = np.add.accumulate(np.bincount(classes, weights))
        if (edge := int(masses.searchsorted(target))) < masses.size:
            before = masses[edge - 1] if edge else 0.0
            above, group = int(np.count_nonzero(classes < edge)), weights[classes == edge]
    descending = np.sort(group)[::-1]
    sums = np.add.accumulate(descending)
    sums += before
    last = int(sums.searchsorted(target))
    distances = (sums[last] if last < sums.size else np.inf) - target, target - (sums[last - 1] if last else before)
    if min(distances) < MARGIN * target:
        return None
    return _down_to(weights, above + last + 1, descending[last] if last < sums.size else 0.0, least)


def _down_to(weights: NDArray[np.float64], count: int, edge: float, least: float) -> NDArray[np.intp]:
    """Ascending indices of the `count` largest weights, of which `edge` is the smallest, without any below `least`."""
    indices = (weights >= max(edge, least)).nonzero()[0]
    if indices.size > count:  # of those equal to the edge, the lower ids stay
        surplus = (weights[indices] == edge).nonzero()[0][count - indices.size :]
        indices = np.delete(indices, surplus)
    return indices


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
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(x: int) -> int:
    """splitmix64's finalizer: 64 bits in, 64 bits out."""
    x = ((x ^ (x >> 30)) * FIRST) & MASK
    x = ((x ^ (x >> 27)) * SECOND) & MASK
    return x ^ (x >> 31)


def uniform(seed: int, step: int, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    """A number in (0, 1) for each id, a pure function of its three arguments.

    (mix(s + GAMMA (id + 1)) >> 11 + 1/2) / 2^53, with s = mix(mix(seed) + GAMMA (step + 1)), all modulo 2^64.
    """
    return _uniform(mix(seed & MASK), step, (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA))


def _uniform(mixed_seed: int, step: int, strides: NDArray[np.uint64]) -> NDArray[np.float64]:
    """`uniform` without what is the same at every step: `mix(seed)`, and GAMMA (id + 1) for each id."""
    x = strides + np.uint64(mix((mixed_seed + GAMMA * (step + 1)) & MASK))
    # `mix`, in place: uint64 arithmetic of numpy is modulo 2^64 as it is.
    x ^= x >> _30
    x *= _FIRST
    x ^= x >> _27
    x *= _SECOND
    x ^= x >> _31
    x >>= _11
    u = x.astype(np.float64)
    u += 0.5
    u *= 2.0**-53
    return u


# The numbers in `_uniform` as arrays of no dimensions. numpy turns an int or a scalar into such an array at each use,
# and for the few ids that filters leave this takes as long as the operation itself.
_30, _27, _31, _11, _FIRST, _SECOND = (np.array(x, np.uint64) for x in (30, 27, 31, 11, FIRST, SECOND))


@functools.lru_cache(maxsize=2)
def _all_ids(vocab_size: int) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """All ids, and GAMMA (id + 1) for each; shared, so read-only."""
    ids = np.arange(vocab_size)
    strides = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    ids.flags.writeable = strides.flags.writeable = False
    return ids, strides


class Sampler:
    """The sampler of one text: it remembers the ids so far and the number of draws.

    Its buffers are reused at each step; what it returns belongs to the caller.

    Args:
        settings: the filters, the seed and the bans.
        vocab_size: length of the logits.
        history: ids of the prompt; the repetition penalty counts them too, presence and frequency penalty do not.
        ends: ids that end the text, for the rules of `processors.py`.

    Raises:
        SettingError: an id of `logit_bias` or `banned` is outside the vocabulary.
    """

    def __init__(self, settings: Sampling, vocab_size: int, history: Iterable[int] = (), ends: Collection[int] = ()):
        self.settings, history = settings, tuple(history)
        self._rules = Processors(settings, vocab_size, ends, history) if Processors.needed(settings) else None
        self.seed = int.from_bytes(os.urandom(4)) if settings.seed is None else settings.seed
        for name, ids in (("logit_bias", settings.logit_bias), ("banned", settings.banned)):
            for token in ids:
                if not 0 <= token < vocab_size:
                    raise SettingError(f"{name}: token id {token} is outside the vocabulary of {vocab_size}")
        self._bias_ids = np.array(list(settings.logit_bias), dtype=np.intp)
        self._bias = np.array(list(settings.logit_bias.values()), dtype=np.float32)
        self._banned = np.array(settings.banned, dtype=np.intp)
        self._counts_text = settings.presence_penalty != 0 or settings.frequency_penalty != 0
        self._only_lowers = (
            settings.repetition_penalty > 1
            and not settings.logit_bias
            and not settings.banned
            and not self._counts_text
            and self._rules is None
        )
        self._mixed_seed, self._step = mix(self.seed & MASK), 0
        self._ids, self._strides = _all_ids(vocab_size)
        # Ids of prompt and text, each once, in the order of their first use: `_seen[:_count]`.
        self._seen, self._count = np.empty(vocab_size, np.intp), 0
        self._unseen = np.ones(vocab_size, bool)
        for token in history:
            self._see(token)
        # With a presence or frequency penalty, or rules: the new text. What the penalties subtract from each logit.
        self._text: list[int] = []
        self._lowered = np.zeros(vocab_size if self._counts_text else 0, np.float32)
        self._counts: dict[int, int] = {}
        self._logits = np.empty(vocab_size, np.float32)
        self._weights = np.empty(vocab_size if settings.temperature > 0 else 0, np.float64)

    def distribution(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """What the next token is drawn from: ascending ids (n,) and their probabilities (n,), which sum to 1.

        At temperature 0 it is the most likely id alone, the lowest among equals. `allowed` (vocab_size,) masks ids for
        this step. Raises `SettingError` if no id is left.
        """
        if self.settings.temperature == 0:
            return np.array([self._processed(logits, allowed)[1]]), np.ones(1)
        ids, weights = self._candidates(logits, allowed)
        return ids, weights / _sum(weights)

    def choose(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token, remembered for the penalties. Raises as `distribution`."""
        if self.settings.temperature == 0:
            token = self._most_likely(logits, allowed)
        else:
            ids, weights = self._candidates(logits, allowed)
            token = int(ids[self._winner(ids, weights)]) if ids.size > 1 else int(ids[0])
            self._step += 1
        self._remember(token)
        return token

    def guess(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> tuple[int, float]:
        """As `choose`, with the token's probability in (0, 1]: that of the filtered distribution, or at temperature 0
        that of the model after penalties, bias and bans. Drafts use it as their confidence."""
        if self.settings.temperature == 0:
            scores, token = self._processed(logits, allowed)
            probability = 1 / _sum(np.exp(scores - scores[token])).item()
        else:
            ids, weights = self._candidates(logits, allowed)
            index = self._winner(ids, weights)
            token, probability = int(ids[index]), (weights[index] / _sum(weights)).item()
            self._step += 1
        self._remember(token)
        return token, probability

    def accept(self, token: int) -> None:
        """Continue as if `choose` had returned this token."""
        if self.settings.temperature != 0:
            self._step += 1
        self._remember(token)

    @property
    def step(self) -> int:
        """Number of draws so far, an argument of `uniform`. Stays 0 at temperature 0."""
        return self._step

    def mark(self) -> tuple[int, int, int]:
        """The present state, for `rewind`; the first number is `step`."""
        return self._step, self._count, len(self._text)

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Forget the tokens chosen since `mark` was taken."""
        self._step, count, length = mark
        self._unseen[self._seen[count : self._count]] = True
        self._count = count
        for token in self._text[length:] if self._counts_text else ():
            self._count_in_text(token, -1)
        del self._text[length:]
        if self._rules is not None:
            self._rules.truncate(length)

    def _winner(self, ids: NDArray[np.intp], weights: NDArray[np.float64]) -> np.intp:
        """Index of the id that wins the race of this step."""
        strides = self._strides if ids.size == self._strides.size else self._strides[ids]
        times = _uniform(self._mixed_seed, self._step, strides)
        np.log(times, out=times)
        times /= weights  # negative: the largest is the least -ln(u) / weight
        return times.argmax()

    def _remember(self, token: int) -> None:
        self._see(token)
        if self._counts_text:
            self._text.append(token)
            self._count_in_text(token, 1)
        if self._rules is not None:
            self._rules.append(token)
            if not self._counts_text:
                self._text.append(token)

    def _count_in_text(self, token: int, change: int) -> None:
        s, count = self.settings, self._counts.get(token, 0) + change
        self._counts[token] = count
        self._lowered[token] = s.presence_penalty + s.frequency_penalty * count if count else 0.0

    def _see(self, token: int) -> None:
        if self._unseen[token]:
            self._unseen[token] = False
            self._seen[self._count] = token
            self._count += 1

    def _most_likely(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None) -> int:
        """The id that `_processed` returns, without copying the logits where only a penalty above 1 applies: it lowers
        ids already used and raises none, so a most likely id that is new remains the most likely.
        """
        if self._only_lowers and allowed is None:
            best = int(logits.argmax())
            if self._unseen[best] and math.isfinite(logits[best]):
                return best
        return self._processed(logits, allowed)[1]

    def _processed(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], int]:
        """The logits after penalties, bias and bans, and the most likely id; the caller's array is not changed."""
        penalized = self.settings.repetition_penalty != 1 and self._count
        lowered, rules = self._counts_text and self._text, self._rules
        if penalized or lowered or rules or self._bias_ids.size or self._banned.size or allowed is not None:
            np.copyto(self._logits, logits)
            logits = self._logits
            if penalized:
                apply_repetition_penalty(logits, self._seen[: self._count], self.settings.repetition_penalty)
            if rules is not None:
                rules.apply(logits)
            if lowered:
                logits -= self._lowered
            if self._bias_ids.size:
                logits[self._bias_ids] += self._bias
            if self._banned.size:
                logits[self._banned] = -np.inf
            if allowed is not None:
                np.copyto(logits, -np.inf, where=~allowed)
        best = int(logits.argmax())
        # argmax returns NaN or plus infinity first, and minus infinity only if everything is banned.
        if not math.isfinite(logits[best]):
            if logits[best] == -np.inf:
                raise SettingError("every token is banned: nothing can follow")
            raise SettingError("the logits are not finite: a logit_bias is too large, or the model is damaged")
        return logits, best

    def _candidates(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """`candidates` of the specification at a temperature above 0; the arrays are valid until the next step."""
        s = self.settings
        logits, best = self._processed(logits, allowed)
        if s.temperature != 1:
            logits = np.divide(logits, np.float32(s.temperature), out=self._logits)
        top = logits[best].item()
        if not math.isfinite(top):
            raise SettingError(f"temperature {s.temperature} is too small to divide by: 0 takes the most likely token")
        least = max(s.min_p, SMALLEST)
        if 0 < s.top_k < logits.size:
            ids = keep_top_k(logits, s.top_k)
            weights = logits[ids].astype(np.float64)
        else:
            ids, weights = self._ids, self._weights
            np.copyto(weights, logits)
        weights -= top
        np.exp(weights, out=weights)
        if s.top_p >= 1:
            if least == SMALLEST and weights.all():
                return ids, weights
            kept = (weights >= least).nonzero()[0]
        elif ids.size <= SORTED_AT_ONCE:
            kept = keep_top_p(weights, s.top_p, least)
        else:
            # Weights below this bound cannot be kept: all of them together are less than the 1 - p that top-p drops.
            # (The margin allows for rounding.)
            target = s.top_p * (total := _sum(weights).item())
            some = (weights >= max(least, (1 - MARGIN) * (total - target) / weights.size)).nonzero()[0]
            indices = keep_top_p_unless_close(weights[some], target, least)
            kept = keep_top_p(weights, s.top_p, least) if indices is None else some[indices]
        return ids[kept], weights[kept]
