"""How many tokens are drafted, on a clock of the test's own."""

import pytest
from speculative_toys import Hashed, Spelled

from edgekit.inference.speculative import speculation
from edgekit.inference.speculative.pace import MOST, REST, Costs, Pace
from edgekit.model import Model

PIECES = [b"", *(bytes([97 + i]) for i in range(12))]


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


class Timed(Hashed):
    """A runtime whose calls take as long as `cost` says, in seconds by tokens."""

    def __init__(self, clock, cost, **more):
        super().__init__(len(PIECES), 4096, **more)
        self._clock, self._cost = clock, cost

    def forward(self, tokens, *, every=False):
        self._clock.now += self._cost(len(tokens))
        return super().forward(tokens, every=every)


def drafted(monkeypatch, target_cost, draft_cost, wrong, count="auto", length=600):
    """The statistics of a text, and how many times faster it was than the same one without a draft, exactly."""
    clock = Clock()
    monkeypatch.setattr(speculation, "time", clock)
    monkeypatch.setattr("edgekit.inference.generate.time", clock)
    target = Model(Timed(clock, target_cost), Spelled(PIECES))
    draft = Model(Timed(clock, draft_cost, wrong=wrong), Spelled(PIECES))
    alone = target.generate([1], max_new_tokens=length)
    result = target.generate([1], max_new_tokens=length, draft=draft, draft_tokens=count)
    assert result.tokens == alone.tokens
    return result.draft, alone.timings.decode / result.timings.decode


def test_a_good_cheap_draft_is_used_to_the_full(monkeypatch):
    stats, faster = drafted(monkeypatch, lambda n: 10 + 0.1 * n, lambda n: 0.1 * n, 0.0)
    assert stats.acceptance > 0.95 and stats.tokens_per_call > 0.6 * MOST and stats.rests == 0
    assert faster > 7 and stats.speedup == pytest.approx(faster, rel=0.02), "the estimate is what it would be alone"


def test_a_useless_draft_costs_little_and_says_so(monkeypatch):
    stats, faster = drafted(monkeypatch, lambda n: 10 + 0.5 * n, lambda n: 2.0 * n, 1.0)
    assert stats.rests >= 4 and stats.drafted < 200, "it is tried again and again, ever more rarely"
    assert 0.85 < faster < 1 and stats.speedup == pytest.approx(faster, rel=0.02)


@pytest.mark.parametrize("cost", [lambda n: 10.0, lambda n: 10.0 * n])
def test_what_could_not_pay_if_every_guess_were_right_is_given_up(monkeypatch, cost):
    stats, faster = drafted(monkeypatch, cost, lambda n: 12.0 * n, 0.0)
    assert stats.rests == 1 and stats.resting and stats.drafted < 30 and faster > 0.9


def test_as_good_as_the_best_fixed_number(monkeypatch):
    """Where a call of 2 or 3 tokens costs as many calls of one, and one of 4 or more hardly more (PyTorch's steps)."""
    cost = lambda n: 5.0 * n if n <= 3 else 12.0 + 0.2 * n  # noqa: E731
    fixed = {k: drafted(monkeypatch, cost, lambda n: 0.4 * n, 0.12, k)[1] for k in (1, 2, 4, 6, 8, 12)}
    stats, faster = drafted(monkeypatch, cost, lambda n: 0.4 * n, 0.12)
    assert faster > 0.93 * max(fixed.values()), (fixed, faster)
    assert max(fixed.values()) > 1.1 and 0.5 < stats.acceptance < 1


def test_a_fixed_number_is_kept(monkeypatch):
    stats, _ = drafted(monkeypatch, lambda n: 10.0 * n, lambda n: 12.0, 1.0, 3, length=60)
    # Two calls to measure; at the end there is less left to guess.
    assert stats.rests == 0 and stats.drafted >= 3 * (stats.calls - 2 - 3)


def test_costs_between_and_beyond_what_was_measured():
    costs = Costs(0.1)
    assert costs(3) == 0
    costs.saw(2, 4.0)
    assert costs(2) == 4 and costs(4) == pytest.approx(4.4) and costs(1) == pytest.approx(3.6) and costs(0) == 0
    costs.saw(6, 8.0)
    assert costs(4) == 6 and costs(10) == pytest.approx(6 + 2 + 4 * 0.2)
    for seconds in (100.0, 4.2, 4.4, 4.1):  # one call was interrupted
        costs.saw(2, seconds)
    assert costs(2) == 4.2


def test_rests_double_and_end():
    pace, rests = Pace(), []
    for _ in range(2):
        pace.target.saw(1, 1.0)
    pace.target.saw(5, 1.2)
    pace.draft.saw(4, 2.0)
    plain = 0
    for _ in range(200):
        if pace.plan(100):
            pace.saw_round([0.5] * 4, 0)
            rests.append(plain)
            plain = 0
        else:
            plain += 1
    assert [each for each in rests if each][:3] == [REST + 1, 2 * REST + 1, 4 * REST + 1]
    for _ in range(40):  # the text changed: now the draft is always right
        pace.saw_round([0.5] * 4, 4)
    assert any(pace.plan(100) >= 8 for _ in range(300))
    assert pace.plan(3) <= 3 and pace.plan(0) == 0
