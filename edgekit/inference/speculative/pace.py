"""How many tokens to draft: the number that gives most tokens a second, by the cost of calls and past accuracy.

The target's call with n tokens takes T(n) seconds, a draft of k tokens D(k), and a token that follows k right ones is
right with probability a (Leviathan et al. 2023, section 3.1). A round then gives (1 - a^(k+1)) / (1 - a) tokens on
average in T(k+1) + D(k) seconds; without a draft it gives one in T(1). T and D are measured during the text, since they
depend on a backend's kernels: two tokens can cost PyTorch as much as two calls, and eight little more than one.

Within a round the draft gives a confidence for each token, on any scale. How often tokens of each confidence were right
is counted, so an uncertain draft stops early.

If no number pays, drafting pauses: for 16 tokens, then for twice as many after each trial that failed, at most 256; and
for good if it would not pay even with every guess right. While there are few counts, the probability is taken at the
upper end of its uncertainty, so a few unlucky rounds do not end what would have paid.
"""

import math
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Sequence

PLAIN_CALLS = 2
"""One-token calls of the target at the beginning, which measure what the text would cost without a draft."""
TRIAL = 4
"""Tokens of a draft before anything is known about it."""
MOST = 16
"""Most tokens of a draft, if the number adapts."""
PAUSE, LONGEST_PAUSE = 16, 256
MARGIN = 1.02
"""Speed-up below which a draft is not used: errors of measurement are as large."""
DECAY, DECAY_AT_PAUSE = 0.98, 0.7
"""Factors of the counts after each round and at each pause, because texts change."""
CLASSES = 8
"""Classes of confidence that are counted separately."""


class Costs:
    """Seconds of calls by their number of tokens, interpolated between the numbers that were measured."""

    def __init__(self, marginal: float):
        """`marginal`: cost of a further token while only one number is measured, as a fraction of that call's cost."""
        self._measured: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=5))
        self._marginal = marginal
        self._known: dict[int, float] = {}

    def record(self, count: int, seconds: float) -> None:
        """Add a measurement. The low median of the last five is used: a call may allocate, another program may run."""
        self._measured[count].append(seconds)
        self._known[count] = statistics.median_low(self._measured[count])

    def calls(self, count: int) -> int:
        """How many calls with `count` tokens were measured, five at most."""
        return len(self._measured[count]) if count in self._measured else 0

    def seconds(self, count: int) -> float:
        """Cost of a call with `count` tokens; 0 for a count of 0, and as long as nothing is measured."""
        known = self._known
        if count in known or not known or count == 0:
            return known.get(count, 0.0)
        below = max((n for n in known if n < count), default=0)
        above = min((n for n in known if n > count), default=0)
        if not below:  # extrapolate backwards from the smallest
            slope = self._marginal * known[above]
            return max(known[above] - slope * (above - count), known[above] * count / above)
        if above:
            return known[below] + (known[above] - known[below]) * (count - below) / (above - below)
        # Optimistic above the largest: a cost that seems low is tried and measured, one that seems high never is.
        least = min(known)
        slope = self._marginal * known[least] / least
        if below > least:
            slope = min(slope, max(known[below] - known[least], 0.0) / (below - least))
        return known[below] + slope * (count - below)

    @property
    def largest(self) -> int:
        """The largest count that was measured; 0 if none."""
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
        self._checked = [0.0] * CLASSES
        self._rounds = self._left_of_pause = 0
        self._next_pause = PAUSE
        self._trial = False
        self.pauses = 0
        """How often drafting was paused because it did not pay."""

    def plan(self, limit: int) -> int:
        """How many tokens to draft now, at most `limit`; 0 for none."""
        if limit <= 0 or self.target.calls(1) < PLAIN_CALLS:
            return 0
        if self._fixed is not None:
            return min(self._fixed, limit)
        if self._left_of_pause:
            self._left_of_pause -= 1
            self._trial = not self._left_of_pause
            return 0
        if self._rounds < 2:
            return min(TRIAL, limit)
        most = min(MOST, limit, 2 * self.target.largest)  # at most twice what was measured
        best = max(range(1, most + 1), key=self.rate)
        probability = self.probability()
        probability += math.sqrt(probability * (1 - probability) / (sum(self._checked) + 2))
        if self._speedup(best, probability) >= MARGIN:
            if self._speedup(best) >= MARGIN:
                self._next_pause = PAUSE
            self._trial = False
            return best
        if self._trial:  # once after each pause: what was measured before may no longer hold
            self._trial = False
            return min(TRIAL, limit)
        self.pauses += 1
        hopeless = all(self._speedup(count, 1.0) < MARGIN for count in range(1, MOST + 1))
        self._left_of_pause = sys.maxsize if hopeless else self._next_pause
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)
        self._decay(DECAY_AT_PAUSE)
        return 0

    @property
    def paused(self) -> bool:
        return self._left_of_pause > 0

    def should_continue(self, confidence: Sequence[float]) -> bool:
        """Whether to draft another token after those with this confidence, each in (0, 1]."""
        if self._fixed is not None or self._rounds < 2:
            return True
        probability = self.probability()
        for each in confidence:
            probability *= self.probability(each)
        step = self.draft.seconds(len(confidence) + 1) - self.draft.seconds(len(confidence))
        return probability * self.target.seconds(1) > step

    def worth_checking(self, confidence: Sequence[float]) -> int:
        """How many of the drafted tokens the target should check: each makes its call longer."""
        if self._fixed is not None or self._rounds < 2:
            return len(confidence)
        value, best, gain, probability = self.target.seconds(1), 0, -self.target.seconds(1), 1.0
        expected = 0.0  # tokens that are right
        for count, each in enumerate(confidence, 1):
            probability *= self.probability(each)
            expected += probability
            if (now := expected * value - self.target.seconds(count + 1)) > gain:
                best, gain = count, now
        return best

    def record_round(self, confidence: Sequence[float], right: int) -> None:
        """Count a round: of the tokens that the target checked, with this confidence, the first `right` were right."""
        self._rounds += 1
        self._decay(DECAY)
        for index, each in enumerate(confidence[: right + 1]):
            self._checked[_class(each)] += 1
            self._right[_class(each)] += index < right

    def probability(self, confidence: float | None = None) -> float:
        """That a token is right if those before it are: any token, or one of this confidence."""
        overall = (sum(self._right) + 1.4) / (sum(self._checked) + 2)  # prior: two checked, 70 % right
        if confidence is None:
            return overall
        return (self._right[_class(confidence)] + 2 * overall) / (self._checked[_class(confidence)] + 2)

    def rate(self, count: int, probability: float | None = None) -> float:
        """Expected tokens a second with drafts of `count` tokens, each right with this or the counted probability."""
        a = min(self.probability() if probability is None else probability, 1 - 1e-9)
        return (1 - a ** (count + 1)) / (1 - a) / (self.target.seconds(count + 1) + self.draft.seconds(count))

    def _speedup(self, count: int, probability: float | None = None) -> float:
        """Expected, against the target alone."""
        return self.rate(count, probability) * self.target.seconds(1)

    def _decay(self, factor: float) -> None:
        self._right = [factor * each for each in self._right]
        self._checked = [factor * each for each in self._checked]


def _class(confidence: float) -> int:
    return min(max(int(confidence * CLASSES), 0), CLASSES - 1)
