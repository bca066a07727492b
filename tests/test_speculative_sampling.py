"""What a draft must not change when tokens are drawn: their distribution, and with coupled numbers the tokens."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from speculative_toys import Hashed, Spelled

from edgekit.inference.sampling import Sampler, uniform
from edgekit.inference.speculative import pace, rejection
from edgekit.model import Model
from edgekit.settings import Sampling

PIECES = [b"", b"a", b"b", b"c", b"d", b"e"]
CHAIN = {"temperature": 1.1, "top_k": 5, "top_p": 0.93, "min_p": 0.02, "repetition_penalty": 1.4}
LENGTH, TEXTS = 4, 2500


class Cached(Hashed):
    """The same logits as before are not hashed again."""

    def __init__(self, **more):
        super().__init__(len(PIECES), order=2, spread=1.5, **more)
        self._logits = cache(super().logits)

    def logits(self, context):
        return self._logits(tuple(context[-2:]))


def exactly(runtime, prompt):
    """The probability of every text of LENGTH tokens, by following all of them with the sampler's own distribution."""
    found = {}

    def follow(said, chance):
        if len(said) == LENGTH:
            found[tuple(said)] = chance
            return
        sampler = Sampler(Sampling(**CHAIN), len(PIECES), [*prompt, *said])
        for id, each in zip(*sampler.distribution(runtime.logits([*prompt, *said])), strict=True):
            follow([*said, int(id)], chance * each)

    follow([], 1.0)
    return found


def chi_square(counts, chances):
    """(statistic, limit): above the limit, five standard deviations, the counts are not of these probabilities."""
    total, statistic, cells = sum(counts.values()), 0.0, 0
    assert set(counts) <= set(chances), "something was said that cannot be"
    rare = {text for text, chance in chances.items() if chance * total < 8}
    groups = [{text} for text in set(chances) - rare] + ([rare] if rare else [])
    for group in groups:
        wanted = total * sum(chances[text] for text in group)
        statistic += (sum(counts[text] for text in group) - wanted) ** 2 / wanted
        cells += 1
    return statistic, cells - 1 + 5 * np.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("kind", ["coupled", "rejection"])
def test_texts_are_distributed_as_the_targets_alone(kind, monkeypatch):
    monkeypatch.setattr(pace, "PLAIN", 0)  # guess from the first token on
    target, draft = Model(Cached(), Spelled(PIECES)), Model(Cached(wrong=0.3), Spelled(PIECES))
    prompt, counts, drafted, accepted = [1, 2], Counter(), 0, 0
    for seed in range(TEXTS):
        result = target.generate(
            prompt, **CHAIN, seed=seed, max_new_tokens=LENGTH, draft=draft, draft_tokens=2, draft_sampling=kind
        )
        counts[tuple(result.tokens)] += 1
        drafted, accepted = drafted + result.draft.drafted, accepted + result.draft.accepted
        if kind == "coupled" and seed < 100:
            assert result.tokens == target.generate(prompt, **CHAIN, seed=seed, max_new_tokens=LENGTH).tokens
    assert 0.3 < accepted / drafted < 0.9, "both ways of a choice are taken often"
    statistic, limit = chi_square(counts, exactly(target.runtime, prompt))
    assert statistic < limit
    # And it could tell: the draft's own texts are distributed otherwise.
    alike = dict.fromkeys(counts, 0.0001) | exactly(draft.runtime, prompt)
    assert chi_square(counts, alike)[0] > 4 * limit


@pytest.mark.parametrize("kind", ["coupled", "rejection"])
def test_how_often_a_guess_is_right(kind):
    """One choice: rejection takes 1 - d of the guesses at total variation distance d, coupling (1 - d) / (1 + d) of
    them or more (Daliri et al. 2024, theorem 1); both draw from the target's distribution."""
    rng = np.random.default_rng(5)
    logits = (2 * rng.standard_normal(20)).astype(np.float32)
    other = logits + rng.standard_normal(20).astype(np.float32)
    settings, ids, right, counts, draws = Sampling(temperature=1.0), np.arange(20), 0, Counter(), 20_000
    sampler, guesser = Sampler(settings, 20), Sampler(settings, 20)
    p, q = sampler.distribution(logits)[1], guesser.distribution(other)[1]
    for seed in range(draws):
        if kind == "coupled":
            times = np.log(uniform(seed, 0, ids))
            guess, token = int((times / q).argmax()), int((times / p).argmax())
        else:
            sampler.seed = seed
            guess = rejection.draw(seed, rejection.DRAFT, sampler.step, ids, q)
            token = rejection.choose(sampler, logits, None, guess, (ids, q))
        right += guess == token
        counts[token] += 1
    statistic, limit = chi_square(counts, dict(enumerate(p)))
    assert statistic < limit
    distance = np.maximum(p - q, 0).sum()
    if kind == "rejection":
        # A rejected guess can be drawn again only where p has more of it than q, and there none is rejected.
        assert right / draws == pytest.approx(1 - distance, abs=0.015)
    else:
        assert (1 - distance) / (1 + distance) - 0.015 < right / draws <= 1 - distance + 0.015


def test_rejection_heeds_what_is_masked():
    logits = np.zeros(4, np.float32)
    allowed = np.array([False, True, True, False])
    for seed in range(200):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed, banned=(2,)), 4)
        assert rejection.choose(sampler, logits, allowed, 0, (np.array([0]), np.ones(1))) == 1
        assert sampler.step == 1


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_sampler_goes_back(temperature):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((12, 30)).astype(np.float32)
    settings = Sampling(temperature=temperature, repetition_penalty=1.5, seed=3, top_k=9)
    plain, other = (Sampler(settings, 30, [4, 5]) for _ in range(2))
    wanted = [plain.choose(row) for row in rows]
    for at in range(len(rows)):
        mark = other.mark()
        for row in rows[: at % 4]:  # guesses that come to nothing
            other.guess(row)
        other.rewind(mark)
        token, sure = Sampler.guess(other, rows[at])
        assert token == wanted[at] and 0 < sure <= 1
        other.rewind(mark)
        if temperature:
            ids, chances = other.distribution(rows[at])
            assert sure == pytest.approx(chances[ids.searchsorted(token)])
        other.accept(wanted[at])
    assert other.step == (12 if temperature else 0)
