"""How many tokens to draft: what calls cost, how often drafts were right, and which number makes most of both.

The target's call with n tokens takes T(n) seconds, a draft of k tokens D(k), and a token that follows k right ones is
right with chance a (Leviathan et al. 2023, section 3.1). A round then makes (1 - a^(k+1)) / (1 - a) tokens on average
in T(k+1) + D(k) seconds, and without a draft it is one in T(1). T and D are measured as the text goes, since no rule
knows a backend's kernels: PyTorch's two tokens can cost as much as two calls, and eight little more than one.

Within a round the draft says of each token how sure it is, on whatever scale; how often such tokens were right is
counted, so a draft that is no longer sure of anything stops early.

If no number pays, drafting rests: for 16 tokens, then for twice as many after each trial that failed, at most 256; and
for good where it would not pay if every guess were right. While little is known the chance is taken to be as high as it
may well be, so that a few unlucky rounds do not end what would have paid.
"""

import math
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Sequence

PLAIN = 2
"""One-token calls of the target at the beginning, which tell what the text would cost without a draft."""
TRIAL = 4
"""Tokens of a draft while nothing is known of it."""
MOST = 16
"""Tokens of a draft, at most, if the number adapts."""
REST, LONGEST_REST = 16, 256
MARGIN = 1.02
"""A draft must be so much faster than none: below that, a measurement's error decides."""
FADE, FADE_AT_REST = 0.98, 0.7
"""Of what was counted, so much remains after each round, and after each rest: texts change."""
CLASSES = 8
"""Of how sure a draft is."""


class Costs:
    """Seconds of calls by their number of tokens; what was not measured is interpolated."""

    def __init__(self, marginal: float):
        """`marginal`: what a further token costs while only one number was measured, as a part of a call's cost."""
        self._seen: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=5))
        self._marginal = marginal
        self._known: dict[int, float] = {}

    def saw(self, count: int, seconds: float) -> None:
        """The low median of the last five counts: the first call of a size may allocate, another program may run."""
        self._seen[count].append(seconds)
        self._known[count] = statistics.median_low(self._seen[count])

    def times(self, count: int) -> int:
        """How many calls of this size were seen, up to five."""
        return len(self._seen[count]) if count in self._seen else 0

    def __call__(self, count: int) -> float:
        """Seconds of a call; 0 for a count of 0, and for every count if nothing was measured."""
        known = self._known
        if count in known or not known or count == 0:
            return known.get(count, 0.0)
        below = max((n for n in known if n < count), default=0)
        above = min((n for n in known if n > count), default=0)
        if not below:  # a straight line backwards from the smallest
            slope = self._marginal * known[above]
            return max(known[above] - slope * (above - count), known[above] * count / above)
        if above:
            return known[below] + (known[above] - known[below]) * (count - below) / (above - below)
        # Beyond the largest it is taken to be cheap: whoever tries it finds out, and whoever does not never will.
        least = min(known)
        slope = self._marginal * known[least] / least
        if below > least:
            slope = min(slope, max(known[below] - known[least], 0.0) / (below - least))
        return known[below] + slope * (count - below)

    @property
    def largest(self) -> int:
        """The largest count that was measured, 0 if none."""
        return max(self._known, default=0)


class Pace:
    """The number of tokens to draft, round by round.

    Args:
        count: a fixed number, or None to adapt it.
    """

    def __init__(self, count: int | None = None):
        self._fixed = count
        self.target, self.draft = Costs(0.1), Costs(1.0)
        self._right = [0.0] * CLASSES
        self._tried = [0.0] * CLASSES
        self._rounds = self._resting = 0
        self._rest = REST
        self._trial = False
        self.rests = 0
        """How often drafting was found not to pay."""

    def plan(self, limit: int) -> int:
        """How many tokens to draft now, `limit` at most; 0: none."""
        if limit <= 0 or self.target.times(1) < PLAIN:
            return 0
        if self._fixed is not None:
            return min(self._fixed, limit)
        if self._resting:
            self._resting -= 1
            self._trial = not self._resting
            return 0
        if self._rounds < 2:
            return min(TRIAL, limit)
        most = min(MOST, limit, 2 * self.target.largest)  # step by step into what was not measured
        best = max(range(1, most + 1), key=self.rate)
        chance = self.chance()
        chance += math.sqrt(chance * (1 - chance) / (sum(self._tried) + 2))
        if self.rate(best, chance) * self.target(1) >= MARGIN:
            if self.rate(best) * self.target(1) >= MARGIN:
                self._rest = REST
            self._trial = False
            return best
        if self._trial:  # once after each rest: what was measured may no longer be true
            self._trial = False
            return min(TRIAL, limit)
        self.rests += 1
        hopeless = all(self.rate(count, 1.0) * self.target(1) < MARGIN for count in range(1, MOST + 1))
        self._resting, self._rest = sys.maxsize if hopeless else self._rest, min(2 * self._rest, LONGEST_REST)
        self._age(FADE_AT_REST)
        return 0

    @property
    def resting(self) -> bool:
        return self._resting > 0

    def goes_on(self, sure: Sequence[float]) -> bool:
        """Whether another token is worth its draft, after these: how sure each was, in (0, 1]."""
        if self._fixed is not None or self._rounds < 2:
            return True
        chance = self.chance()
        for each in sure:
            chance *= self.chance(each)
        step = self.draft(len(sure) + 1) - self.draft(len(sure))
        return chance * self.target(1) > step

    def keep(self, sure: Sequence[float]) -> int:
        """How many of the drafted tokens to let the target check: each makes its call longer."""
        if self._fixed is not None or self._rounds < 2:
            return len(sure)
        worth, best, gain, chance = self.target(1), 0, -self.target(1), 1.0
        total = 0.0
        for count, each in enumerate(sure, 1):
            chance *= self.chance(each)
            total += chance
            if (now := total * worth - self.target(count + 1)) > gain:
                best, gain = count, now
        return best

    def saw_round(self, sure: Sequence[float], right: int) -> None:
        """Of the tokens that the target checked, so sure each, the first `right` were right."""
        self._rounds += 1
        self._age(FADE)
        for place, each in enumerate(sure[: right + 1]):
            self._tried[_class(each)] += 1
            self._right[_class(each)] += place < right

    def chance(self, sure: float | None = None) -> float:
        """That a token is right if those before it are: of any token, or of one so sure."""
        overall = (sum(self._right) + 1.4) / (sum(self._tried) + 2)  # as if 2 had been seen, and 7 of 10 were right
        if sure is None:
            return overall
        return (self._right[_class(sure)] + 2 * overall) / (self._tried[_class(sure)] + 2)

    def rate(self, count: int, chance: float | None = None) -> float:
        """Tokens a second that drafts of `count` tokens should make, each right with this chance or the counted one."""
        a = min(self.chance() if chance is None else chance, 1 - 1e-9)
        return (1 - a ** (count + 1)) / (1 - a) / (self.target(count + 1) + self.draft(count))

    def _age(self, part: float) -> None:
        self._right = [part * each for each in self._right]
        self._tried = [part * each for each in self._tried]


def _class(sure: float) -> int:
    return min(max(int(sure * CLASSES), 0), CLASSES - 1)
