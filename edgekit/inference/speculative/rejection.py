"""Rejection sampling of drafted tokens, as in Leviathan et al. 2023 ("Fast Inference from Transformers via Speculative
Decoding", section 2.3).

The draft draws a token x from its distribution q. With p for the target's, x is accepted with probability
min(1, p(x) / q(x)); otherwise the token is drawn from the positive part of p - q, divided by its sum. The result is
distributed as p. Both p and q are taken after penalty, filters and masks, as in the paper's section 2.2.

The three draws must be independent, so each is a race with uniform numbers of its own: the sampler's, with another
seed. The text is therefore a function of the seed and of how many tokens were drafted where; if that adapts to
measured times, the same seed may give another text. Coupled drafts (speculation.py) do not have this disadvantage.
"""

import numpy as np
from numpy.typing import NDArray

from edgekit.inference.samplers import TextSampler
from edgekit.inference.sampling import MASK, mix, uniform

Distribution = tuple[NDArray[np.intp], NDArray[np.float64]]
"""Ascending ids (n,) and their probabilities (n,)."""

DRAFT, ACCEPT, REPLACE = 1, 2, 3
"""The three draws of a token; each number is added to the seed."""


def draw(seed: int, purpose: int, step: int, ids: NDArray[np.intp], weights: NDArray[np.float64]) -> int:
    """One of `ids` by their weights (not all 0), a pure function of its arguments."""
    with np.errstate(divide="ignore"):  # a weight of 0 never wins: its time is infinite
        times = -np.log(_uniform(seed, purpose, step, ids)) / weights
    return int(ids[times.argmin()])


def choose(
    sampler: TextSampler,
    logits: NDArray[np.float32],
    allowed: NDArray[np.bool_] | None,
    guess: int,
    distribution: Distribution,
) -> int:
    """The next token: `guess` or a replacement for it. The sampler remembers it.

    Args:
        logits: the target's, (vocab_size,).
        allowed: mask for this step, (vocab_size,).
        guess: a token that the draft drew.
        distribution: what the draft drew it from.

    Raises:
        SettingError: as `Sampler.distribution`.
    """
    ids, target = sampler.distribution(logits, allowed)
    draft = _probabilities_of(ids, *distribution)
    index = int(ids.searchsorted(guess))
    token = None
    if index < ids.size and ids[index] == guess:
        u = _uniform(sampler.seed, ACCEPT, sampler.step, ids[index : index + 1])[0]
        if u * draft[index] < target[index]:
            token = guess
    if token is None:
        excess = np.maximum(target - draft, 0)
        # All 0 only where both are equal but for rounding: then rejection is rare, and either may be drawn from.
        token = draw(sampler.seed, REPLACE, sampler.step, ids, excess if excess.any() else target)
    sampler.accept(token)
    return token


def _uniform(seed: int, purpose: int, step: int, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    return uniform(mix((seed + purpose) & MASK), step, ids)


def _probabilities_of(
    requested: NDArray[np.intp], ids: NDArray[np.intp], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The probabilities of the requested ids, 0 for those that are not in `ids`. Both ascending."""
    indices = np.minimum(ids.searchsorted(requested), ids.size - 1)
    return np.where(ids[indices] == requested, probabilities[indices], 0.0)
