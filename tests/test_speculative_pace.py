"""How many tokens are drafted, with a simulated clock."""

import pytest
from speculative_toys import Hashed, Spelled

from edgekit.inference.speculative import speculation
from edgekit.inference.speculative.pace import MOST, PAUSE, Costs, Pace
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


def test_pace_good_cheap_draft_is_used_fully(monkeypatch):
    stats, faster = drafted(monkeypatch, lambda n: 10 + 0.1 * n, lambda n: 0.1 * n, 0.0)
    assert stats.acceptance > 0.95 and stats.tokens_per_call > 0.6 * MOST and stats.rests == 0
    assert faster > 7 and stats.speedup == pytest.approx(faster, rel=0.02), "the estimate equals the true speed-up"


def test_pace_useless_draft_costs_little_and_is_reported(monkeypatch):
    stats, faster = drafted(monkeypatch, lambda n: 10 + 0.5 * n, lambda n: 2.0 * n, 1.0)
    assert stats.rests >= 4 and stats.drafted < 200, "it is tried again and again, more and more rarely"
    assert 0.85 < faster < 1 and stats.speedup == pytest.approx(faster, rel=0.02)


@pytest.mark.parametrize("cost", [lambda n: 10.0, lambda n: 10.0 * n])
def test_pace_draft_that_cannot_pay_is_given_up(monkeypatch, cost):
    stats, faster = drafted(monkeypatch, cost, lambda n: 12.0 * n, 0.0)
    assert stats.rests == 1 and stats.resting and stats.drafted < 30 and faster > 0.9


def test_pace_adaptive_number_is_as_good_as_the_best_fixed_one(monkeypatch):
    """A call of 2 or 3 tokens costs as much as 2 or 3 calls of one, one of 4 or more hardly more (as in PyTorch)."""
    cost = lambda n: 5.0 * n if n <= 3 else 12.0 + 0.2 * n  # noqa: E731
    fixed = {k: drafted(monkeypatch, cost, lambda n: 0.4 * n, 0.12, k)[1] for k in (1, 2, 4, 6, 8, 12)}
    stats, faster = drafted(monkeypatch, cost, lambda n: 0.4 * n, 0.12)
    assert faster > 0.93 * max(fixed.values()), (fixed, faster)
    assert max(fixed.values()) > 1.1 and 0.5 < stats.acceptance < 1


def test_pace_fixed_number_is_not_adapted(monkeypatch):
    stats, _ = drafted(monkeypatch, lambda n: 10.0 * n, lambda n: 12.0, 1.0, 3, length=60)
    # Two calls to measure; at the end fewer tokens are left to guess.
    assert stats.rests == 0 and stats.drafted >= 3 * (stats.calls - 2 - 3)


def test_costs_interpolate_and_extrapolate():
    costs = Costs(0.1)
    assert costs.seconds(3) == 0
    costs.record(2, 4.0)
    assert (
        costs.seconds(2) == 4
        and costs.seconds(4) == pytest.approx(4.4)
        and costs.seconds(1) == pytest.approx(3.6)
        and costs.seconds(0) == 0
    )
    costs.record(6, 8.0)
    assert costs.seconds(4) == 6 and costs.seconds(10) == pytest.approx(6 + 2 + 4 * 0.2)
    for seconds in (100.0, 4.2, 4.4, 4.1):  # one call was interrupted
        costs.record(2, seconds)
    assert costs.seconds(2) == 4.2


def test_pace_pauses_double_and_end():
    pace, pauses = Pace(), []
    for _ in range(2):
        pace.target.record(1, 1.0)
    pace.target.record(5, 1.2)
    pace.draft.record(4, 2.0)
    plain = 0
    for _ in range(200):
        if pace.plan(100):
            pace.record_round([0.5] * 4, 0)
            pauses.append(plain)
            plain = 0
        else:
            plain += 1
    assert [each for each in pauses if each][:3] == [PAUSE + 1, 2 * PAUSE + 1, 4 * PAUSE + 1]
    for _ in range(40):  # the text has changed: now the draft is always right
        pace.record_round([0.5] * 4, 4)
    assert any(pace.plan(100) >= 8 for _ in range(300))
    assert pace.plan(3) <= 3 and pace.plan(0) == 0
