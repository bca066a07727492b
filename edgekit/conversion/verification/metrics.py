"""How far two models' logits are apart: what a conversion lost, position by position.

The source's logits are called p, the artefact's q; both were given the same token ids. All sums are float64, so that a
divergence of 1e-12 differs from none.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RuntimeFailure
from edgekit.inference.runtime import Logits
from edgekit.inference.sampling import log_softmax

BLOCK = 1 << 17
"""Logits processed at once: as float64 1 MiB each for the source's, the artefact's and intermediate results."""

TOP = 5


@dataclass(frozen=True)
class Figures:
    """What was measured over all positions of a text. Logits and their differences are in nats."""

    positions: int
    max_difference: float
    """Largest |q - p| of any logit at any position."""
    mean_difference: float
    """Mean |q - p| over all logits."""
    logit_error: float
    """Root mean square of q - p over that of p, each less its mean at its position, which the softmax does not see.
    0 is equal; unrelated models have 1.4. Unlike the KL it means the same for flat and for peaked distributions,
    for untrained and for trained models."""
    mean_kl: float
    """Mean KL(p || q), nats a token."""
    p99_kl: float
    """99 of 100 positions are below."""
    top1: float
    """Share of positions with the same likeliest token, 0 to 1."""
    top5: float
    """Mean share of p's five likeliest tokens that are among q's five."""
    source_perplexity: float
    perplexity: float
    """The artefact's, on the same text."""

    @property
    def perplexity_change(self) -> float:
        """As a share: 0.01 is one percent more than the source's."""
        return self.perplexity / self.source_perplexity - 1

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"perplexity_change": self.perplexity_change}


class Agreement:
    """Collects positions, in any number of parts, and sums them up as `Figures`."""

    def __init__(self) -> None:
        self._kl: list[NDArray[np.float64]] = []
        self._most = self._absolute = self._error = self._signal = self._shared = 0.0
        self._logits = self._same = 0
        self._nats = [0.0, 0.0]

    def add(self, p: Logits, q: Logits, targets: NDArray[np.integer]) -> None:
        """Add positions: logits (n, vocab_size) of both, and the ids that really followed, (n,).

        Raises:
            RuntimeFailure: the artefact's logits are not finite.
        """
        rows = max(1, BLOCK // p.shape[-1])
        for start in range(0, len(p), rows):
            part = slice(start, start + rows)
            self._shared += overlap(p[part], q[part])
            self._add(p[part].astype(np.float64), q[part].astype(np.float64), targets[part])

    def _add(self, p: NDArray[np.float64], q: NDArray[np.float64], targets: NDArray[np.integer]) -> None:
        if not np.isfinite(q).all():
            raise RuntimeFailure("its logits are not finite")
        self._same += int((p.argmax(-1) == q.argmax(-1)).sum())
        self._logits += p.size
        difference = q - p
        self._error += float(difference.var(-1).sum())
        self._signal += float(p.var(-1).sum())
        np.abs(difference, out=difference)
        self._most = max(self._most, float(difference.max()))
        self._absolute += float(difference.sum())
        p, q = log_softmax(p), log_softmax(q)
        self._kl.append((np.exp(p) * (p - q)).sum(-1))
        at = np.arange(len(targets))
        for i, logprobs in enumerate((p, q)):
            self._nats[i] -= float(logprobs[at, targets].sum())

    def figures(self) -> Figures:
        """The result; at least one position must have been added."""
        kl = np.concatenate(self._kl)
        source, artefact = (math.exp(min(nats / len(kl), 700)) for nats in self._nats)
        return Figures(
            positions=len(kl),
            max_difference=self._most,
            mean_difference=self._absolute / self._logits,
            logit_error=_ratio(self._error, self._signal),
            # Rounding of the sums can make it negative where the two are equal.
            mean_kl=max(0.0, float(kl.mean())),
            p99_kl=max(0.0, float(np.quantile(kl, 0.99))),
            top1=self._same / len(kl),
            top5=self._shared / len(kl),
            source_perplexity=source,
            perplexity=artefact,
        )


def overlap(p: NDArray, q: NDArray) -> float:
    """The share of p's likeliest tokens among q's, summed over positions; `TOP` of them, or all of fewer."""
    count = min(TOP, p.shape[-1])
    # Tokens that tie with the last of them count too, up to as many as were asked for.
    mine, theirs = (x >= np.partition(x, -count, axis=-1)[:, -count, None] for x in (p, q))
    return float(np.minimum((mine & theirs).sum(-1), count).sum()) / count


def logit_error(p: NDArray, q: NDArray) -> float:
    """`Figures.logit_error` alone, of logits (n, vocab_size). Infinite if q is not finite."""
    difference = q.astype(np.float64) - p
    if not np.isfinite(difference).all():
        return math.inf
    return _ratio(float(difference.var(-1).sum()), float(p.var(-1, dtype=np.float64).sum()))


def _ratio(error: float, signal: float) -> float:
    return math.sqrt(error / signal) if signal else math.inf if error else 0.0
