"""One chain from logits to a token, in numpy, for every runtime.

Order and meaning are those of Hugging Face `generate` (transformers `generation/logits_process.py`):

    repetition penalty   each id of prompt and text, once: a negative logit times the penalty, others divided by it
    bias, bans           logit_bias added; banned ids and those not `allowed` become minus infinity
    temperature          logits / temperature, still float32; at 0 the likeliest id is taken, the lowest among equals
    top-k                ids whose logit is at least the k-th largest
    weights              exp(logit - largest logit) of the ids left, in float64; ids of weight 0 are out
    top-p                weights summed up, largest first and lower ids first among equals, until p times their sum
                         is reached: the ids so far stay
    min-p                ids of weight min_p or more (the largest is 1)
    draw                 by the weights that are left; divided by their sum they are probabilities

The same seed therefore gives the same tokens wherever the logits agree. `plain` in tests/test_sampling.py is this table
word for word; what is here gives the same ids, probabilities and tokens to the last bit, without sorting a vocabulary.

The draw is a race: each token left has a uniform number u(seed, step, id), and the least -ln(u) / weight wins
(the Gumbel-max trick: the winner is distributed as the weights say). Runtimes round differently, so their
weights differ by 1e-6 or so. A race is then decided otherwise only if two tokens run that close; drawing
from cumulated probabilities would shift every border between two tokens, and a token more or less at top-p's edge
would shift them all.

`uniform` has no state and no table, so that any language can draw the same: it is splitmix64 (Steele, Lea, Flood 2014)
over seed, then step, then id.
"""

import functools
import math
import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import SettingError
from edgekit.settings import Sampling

FEW = 512  # weights that are sorted at once to find top-p's edge; more are counted by size first

# What `.sum()` and `.max()` call in the end, without the Python on the way to it.
_sum, _max = np.add.reduce, np.maximum.reduce

SMALLEST = float(np.nextafter(0, 1))  # above 0: what weighs at least this is not impossible
SURE = 1e-9  # of a sum: far more than the order of adding can change


def apply_repetition_penalty(logits: NDArray[np.float32], ids: NDArray[np.intp], penalty: float) -> None:
    """In place: each id once, negative logits multiplied and others divided (`RepetitionPenaltyLogitsProcessor`)."""
    found = logits[ids]
    factor = np.float32(penalty)
    # The smaller of product and quotient is the product exactly where the logit is negative; below 1 the larger one.
    logits[ids] = (np.minimum if factor > 1 else np.maximum)(found * factor, found / factor)


def reached_by(values: NDArray, count: int) -> float:
    """A bound that at least `count` of the values reach, and seldom many more.

    Cheaper than the count-th largest: of the largest value in each of some groups, at least `count` reach the
    count-th largest, and eight times as many groups as wanted values rarely hold two of them in one.
    """
    width = min(max(8 * count, values.size // 16), values.size // 4)  # long rows: numpy goes through them one by one
    if 2 * count <= width:
        values = _max(values[: values.size // width * width].reshape(-1, width))
    place = values.size - count
    return np.partition(values, place)[place].item()


def keep_top_k(logits: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Ascending ids of the k largest logits, and of all that tie with the smallest of them (`TopKLogitsWarper`)."""
    if k >= logits.size:
        return np.arange(logits.size)
    ids = (logits >= reached_by(logits, k)).nonzero()[0]
    if ids.size > k:
        found = logits[ids]
        ids = ids[found >= np.partition(found, ids.size - k)[ids.size - k]]
    return ids


def keep_top_p(weights: NDArray[np.float64], p: float, least: float) -> NDArray[np.intp]:
    """Ascending places that top-p leaves (`TopPLogitsWarper`), of those weights that are at least `least`."""
    descending = np.sort(weights)[::-1]
    sums = np.add.accumulate(descending)
    last = int(sums.searchsorted(p * sums[-1]))
    return _down_to(weights, last + 1, descending[last], least)


def keep_top_p_of(weights: NDArray[np.float64], target: float, least: float) -> NDArray[np.intp] | None:
    """`keep_top_p` where the largest weights must reach `target`, a sum that was added up in another order.

    None if it comes so close that only the right order could tell. `weights` must hold all that could count: those of
    `least` and more, or enough to reach the target.
    """
    before, above, group = 0.0, 0, weights
    if weights.size > FEW:
        # A float64's bits, read as a whole number, grow with the value: the first of them are a class of values, 1/64
        # octave wide. Adding up each class finds the one with the edge, and that class alone is sorted.
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
    near = (sums[last] if last < sums.size else np.inf) - target, target - (sums[last - 1] if last else before)
    if min(near) < SURE * target:
        return None
    return _down_to(weights, above + last + 1, descending[last] if last < sums.size else 0.0, least)


def _down_to(weights: NDArray[np.float64], count: int, edge: float, least: float) -> NDArray[np.intp]:
    """Ascending places of the `count` largest weights, of which `edge` is the smallest, without any below `least`."""
    places = (weights >= max(edge, least)).nonzero()[0]
    if places.size > count:
        # Of equals at the edge the lower ids stay.
        surplus = (weights[places] == edge).nonzero()[0][count - places.size :]
        places = np.delete(places, surplus)
    return places


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
    """`uniform` after what does not change from step to step: `mix(seed)`, and GAMMA (id + 1) for each id."""
    x = strides + np.uint64(mix((mixed_seed + GAMMA * (step + 1)) & MASK))
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


# As arrays: a scalar would be made into one at each use.
_30, _27, _31, _11, _FIRST, _SECOND = (np.array(x, np.uint64) for x in (30, 27, 31, 11, FIRST, SECOND))


@functools.lru_cache(maxsize=2)
def _every(vocab_size: int) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """All ids, and GAMMA (id + 1) for each; shared, so read-only."""
    ids = np.arange(vocab_size)
    strides = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    ids.flags.writeable = strides.flags.writeable = False
    return ids, strides


class Sampler:
    """The chain for one text: it remembers what was said, and how many tokens it drew.

    Its buffers are used again at each step; what it returns belongs to the caller.

    Args:
        settings: see `Sampling`.
        vocab_size: length of the logits.
        seen: ids of the prompt, which the repetition penalty counts too.

    Raises:
        SettingError: an id of `logit_bias` or `banned` lies outside the vocabulary.
    """

    def __init__(self, settings: Sampling, vocab_size: int, seen: Iterable[int] = ()):
        self.settings = settings
        self.seed = int.from_bytes(os.urandom(4)) if settings.seed is None else settings.seed
        for name, ids in (("logit_bias", settings.logit_bias), ("banned", settings.banned)):
            for token in ids:
                if not 0 <= token < vocab_size:
                    raise SettingError(f"{name}: token id {token} is outside the vocabulary of {vocab_size}")
        self._bias_ids = np.array(list(settings.logit_bias), dtype=np.intp)
        self._bias = np.array(list(settings.logit_bias.values()), dtype=np.float32)
        self._banned = np.array(settings.banned, dtype=np.intp)
        self._only_lowers = settings.repetition_penalty > 1 and not settings.logit_bias and not settings.banned
        self._mixed_seed, self._step = mix(self.seed & MASK), 0
        self._ids, self._strides = _every(vocab_size)
        # Ids that were said, each once, in the order they came: said[:count]. `new` has those that were not.
        self._said, self._count = np.empty(vocab_size, np.intp), 0
        self._new = np.ones(vocab_size, bool)
        for token in seen:
            self._remember(token)
        self._logits = np.empty(vocab_size, np.float32)
        self._weights = np.empty(vocab_size if settings.temperature > 0 else 0, np.float64)

    def distribution(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """What the next token is drawn from: ascending ids (n,) and their probabilities (n,), which sum to 1.

        At temperature 0 it is the likeliest token alone, the lowest id among equals. `allowed` (vocab_size,)
        masks ids for this step. Raises `SettingError` if nothing may follow.
        """
        if self.settings.temperature == 0:
            return np.array([self._processed(logits, allowed)[1]]), np.ones(1)
        ids, weights = self._weighed(logits, allowed)
        return ids, weights / _sum(weights)

    def choose(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token, remembered for the repetition penalty. Raises as `distribution`."""
        if self.settings.temperature == 0:
            token = self._likeliest(logits, allowed)
        else:
            ids, weights = self._weighed(logits, allowed)
            token = int(ids[self._winner(ids, weights)]) if ids.size > 1 else int(ids[0])
            self._step += 1
        self._remember(token)
        return token

    def guess(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> tuple[int, float]:
        """What `choose` takes, and its probability in (0, 1]: of the filtered distribution, or at temperature 0 of the
        model's own (after penalty, bias and bans). For drafts, which want to know how sure they are."""
        if self.settings.temperature == 0:
            scores, token = self._processed(logits, allowed)
            chance = 1 / _sum(np.exp(scores - scores[token])).item()
        else:
            ids, weights = self._weighed(logits, allowed)
            place = self._winner(ids, weights)
            token, chance = int(ids[place]), (weights[place] / _sum(weights)).item()
            self._step += 1
        self._remember(token)
        return token, chance

    def accept(self, token: int) -> None:
        """Go on as if `choose` had taken this token."""
        if self.settings.temperature != 0:
            self._step += 1
        self._remember(token)

    @property
    def step(self) -> int:
        """Tokens drawn so far: what `uniform` is asked with. Stays 0 at temperature 0."""
        return self._step

    def mark(self) -> tuple[int, int]:
        """Where the sampler is, for `back`."""
        return self._step, self._count

    def back(self, mark: tuple[int, int]) -> None:
        """Forget the tokens chosen since `mark` was taken."""
        self._step, count = mark
        self._new[self._said[count : self._count]] = True
        self._count = count

    def _winner(self, ids: NDArray[np.intp], weights: NDArray[np.float64]) -> np.intp:
        """The place of the id that wins this step's race."""
        strides = self._strides if ids.size == self._strides.size else self._strides[ids]
        times = _uniform(self._mixed_seed, self._step, strides)
        np.log(times, out=times)
        times /= weights  # negative, so the largest is the least -ln(u) / weight
        return times.argmax()

    def _remember(self, token: int) -> None:
        if self._new[token]:
            self._new[token] = False
            self._said[self._count] = token
            self._count += 1

    def _likeliest(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None) -> int:
        """The id that `_processed` finds, without touching any logit where the penalty alone could change one: a
        penalty above 1 lowers what was said and raises nothing, so a likeliest token that is new stays the likeliest.
        """
        if self._only_lowers and allowed is None:
            best = int(logits.argmax())
            if self._new[best] and math.isfinite(logits[best]):
                return best
        return self._processed(logits, allowed)[1]

    def _processed(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], int]:
        """The logits after penalty, bias and bans, and the likeliest id; the caller's array is left alone."""
        penalised = self.settings.repetition_penalty != 1 and self._count
        if penalised or self._bias_ids.size or self._banned.size or allowed is not None:
            np.copyto(self._logits, logits)
            logits = self._logits
            if penalised:
                apply_repetition_penalty(logits, self._said[: self._count], self.settings.repetition_penalty)
            if self._bias_ids.size:
                logits[self._bias_ids] += self._bias
            if self._banned.size:
                logits[self._banned] = -np.inf
            if allowed is not None:
                np.copyto(logits, -np.inf, where=~allowed)
        best = int(logits.argmax())
        # NaN comes out first and so does plus infinity; minus infinity is the largest where everything is banned.
        if not math.isfinite(logits[best]):
            if logits[best] == -np.inf:
                raise SettingError("every token is banned: nothing can follow")
            raise SettingError("the logits are not finite: a logit_bias is too large, or the model is damaged")
        return logits, best

    def _weighed(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The ids that are left at a temperature above 0, ascending, and their weights; good until the next step."""
        s = self.settings
        logits, best = self._processed(logits, allowed)
        if s.temperature != 1:
            logits = np.divide(logits, np.float32(s.temperature), out=self._logits)
        top = logits[best].item()
        if not math.isfinite(top):
            raise SettingError(f"temperature {s.temperature} is too small to divide by: 0 takes the likeliest token")
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
        elif ids.size <= FEW:
            kept = keep_top_p(weights, s.top_p, least)
        else:
            # What is below this stays out: all such tokens together have less than the 1 - p that top-p may leave out.
            # (The margin is for rounding.)
            target = s.top_p * (total := _sum(weights).item())
            some = (weights >= max(least, (1 - SURE) * (total - target) / weights.size)).nonzero()[0]
            found = keep_top_p_of(weights[some], target, least)
            kept = keep_top_p(weights, s.top_p, least) if found is None else some[found]
        return ids[kept], weights[kept]
