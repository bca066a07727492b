"""What a conversion costs, in words: by how much the artefact's perplexity is above its source's.

The limits of `tolerances.py` tell a sound conversion from a broken one. A sound one may still cost much, since 4 bits
lose more on some models than on others; these words say so. They need a text: on random ids a perplexity says nothing.

A short text tells a few percent from none by luck: the bundled model as q3_k_s has a perplexity 0.3 % above the
source's on 256 positions, but a mean KL of 0.05. On a text that the source itself would write, the KL is what the
logarithm of the perplexity grows by, and it depends less on the words. So an artefact keeps within 2 % if both do.
"""

import math

from edgekit.conversion.verification.metrics import Figures

LITTLE = 0.02
"""The largest share that counts as kept: a perplexity of 10.2 instead of 10."""
MUCH = 0.25
"""The share from which a loss is called large and not just noticeable."""

KEPT, NOTICEABLE, LARGE = "sound", "noticeable loss", "large loss"


def cost_of(figures: Figures) -> float:
    """As a share: the change of the perplexity, or what the KL stands for if the change alone would be within 2 %."""
    change = figures.perplexity_change
    return change if change > LITTLE else max(change, math.expm1(min(figures.mean_kl, 700)))


def grade(cost: float | None) -> str:
    """A sound artefact's verdict for a table.

    Args:
        cost: `cost_of`; None if it was not measured on a text.
    """
    if cost is None or cost <= LITTLE:
        return KEPT
    return NOTICEABLE if cost < MUCH else LARGE


def sentence(figures: Figures) -> str:
    """The same in words."""
    cost, change = cost_of(figures), figures.perplexity_change
    if cost <= LITTLE:
        return f"within {percent(LITTLE)} of the source's perplexity"
    size = "noticeable" if cost < MUCH else "a large loss"
    if change > LITTLE:
        return f"costs {percent(cost)} perplexity: {size}"
    return f"costs about {percent(cost)} perplexity by its KL, of which this text shows {signed(change)}: {size}"


def percent(share: float) -> str:
    """0.02 as "2 %", 0.1149 as "11.5 %", 1.5 as "150 %"; 0.0201 is "2.01 %", so that it does not read as the limit."""
    digits = 1 if abs(share) < 1 else 0
    if share > LITTLE and round(100 * share, digits) <= 100 * LITTLE:
        digits = 2
    return f"{100 * share:.{digits}f}".removesuffix(".0") + " %"


def signed(share: float) -> str:
    """+1.2 %, -0.3 %, 0 %"""
    shown = percent(abs(share))
    return shown if shown == "0 %" else f"{'-' if share < 0 else '+'}{shown}"
