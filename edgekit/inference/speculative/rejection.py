"""Rejection sampling of drafted tokens, as in Leviathan et al. 2023 ("Fast Inference from Transformers via Speculative
Decoding", section 2.3).

The draft draws a token x from its distribution q. It is taken with probability min(1, p(x) / q(x)), p being the
target's; otherwise the token is drawn from what p has more than q: (p - q)+ divided by its sum. The result is
distributed as p. Both are what the sampler leaves after penalty, filters and masks, as the paper's section 2.2 has it.

Three draws must not depend on each other, so each is a race with uniform numbers of its own: the sampler's, with
another seed. A text is therefore a function of the seed and of how many tokens were drafted where; if that adapts
to measured times, the same seed may give another text. The coupled way has no such weakness.
"""

import numpy as np
from numpy.typing import NDArray

from edgekit.inference.sampling import MASK, Sampler, mix, uniform

Distribution = tuple[NDArray[np.intp], NDArray[np.float64]]
"""Ascending ids (n,) and their probabilities (n,)."""

DRAFT, ACCEPT, REST = 1, 2, 3


def draw(seed: int, purpose: int, step: int, ids: NDArray[np.intp], weights: NDArray[np.float64]) -> int:
    """One of `ids`, by their weights (not all 0), a pure function of its arguments."""
    with np.errstate(divide="ignore"):  # a weight of 0 never wins: its time is infinite
        times = -np.log(_uniform(seed, purpose, step, ids)) / weights
    return int(ids[times.argmin()])


def choose(
    sampler: Sampler,
    logits: NDArray[np.float32],
    allowed: NDArray[np.bool_] | None,
    guess: int,
    drawn_from: Distribution,
) -> int:
    """The next token, with `guess` having been drawn from a draft's distribution; remembered by the sampler.

    Args:
        logits: the target's, (vocab_size,). Raises as `Sampler.distribution`.
    """
    ids, target = sampler.distribution(logits, allowed)
    draft = _at(ids, *drawn_from)
    place = int(ids.searchsorted(guess))
    token = None
    if place < ids.size and ids[place] == guess:
        u = _uniform(sampler.seed, ACCEPT, sampler.step, ids[place : place + 1])[0]
        if u * draft[place] < target[place]:
            token = guess
    if token is None:
        more = np.maximum(target - draft, 0)
        # Equal but for rounding: then hardly anything is ever rejected, and what is may be drawn from either.
        token = draw(sampler.seed, REST, sampler.step, ids, more if more.any() else target)
    sampler.accept(token)
    return token


def _uniform(seed: int, purpose: int, step: int, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    return uniform(mix((seed + purpose) & MASK), step, ids)


def _at(wanted: NDArray[np.intp], ids: NDArray[np.intp], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of the wanted ids, 0 for those that are not among `ids`. Both ascending."""
    places = np.minimum(ids.searchsorted(wanted), ids.size - 1)
    return np.where(ids[places] == wanted, chances[places], 0.0)
