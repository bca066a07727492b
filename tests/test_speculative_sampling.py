"""What a draft must not change when tokens are drawn: their distribution and, if coupled, the tokens themselves."""

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
    """With a cache of the logits."""

    def __init__(self, **more):
        super().__init__(len(PIECES), order=2, spread=1.5, **more)
        self._logits = cache(super().logits)

    def logits(self, context):
        return self._logits(tuple(context[-2:]))


def exactly(runtime, prompt):
    """The probability of every text of LENGTH tokens, from the sampler's own distribution after each prefix."""
    texts = {}

    def follow(text, probability):
        if len(text) == LENGTH:
            texts[tuple(text)] = probability
            return
        sampler = Sampler(Sampling(**CHAIN), len(PIECES), [*prompt, *text])
        for id, each in zip(*sampler.distribution(runtime.logits([*prompt, *text])), strict=True):
            follow([*text, int(id)], probability * each)

    follow([], 1.0)
    return texts


def chi_square(counts, probabilities):
    """(statistic, limit): above the limit, five standard deviations, the counts do not have these probabilities."""
    total, statistic, cells = sum(counts.values()), 0.0, 0
    assert set(counts) <= set(probabilities), "no text of probability 0"
    rare = {text for text, each in probabilities.items() if each * total < 8}
    groups = [{text} for text in set(probabilities) - rare] + ([rare] if rare else [])
    for group in groups:
        expected = total * sum(probabilities[text] for text in group)
        statistic += (sum(counts[text] for text in group) - expected) ** 2 / expected
        cells += 1
    return statistic, cells - 1 + 5 * np.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("kind", ["coupled", "rejection"])
def test_generate_texts_have_the_distribution_of_the_target_alone(kind, monkeypatch):
    monkeypatch.setattr(pace, "PLAIN_CALLS", 0)  # guess from the first token on
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
    # The test is sensitive: the draft's own texts have another distribution.
    alike = dict.fromkeys(counts, 0.0001) | exactly(draft.runtime, prompt)
    assert chi_square(counts, alike)[0] > 4 * limit


@pytest.mark.parametrize("kind", ["coupled", "rejection"])
def test_choose_guess_is_right_as_often_as_theory_says(kind):
    """One choice: rejection accepts 1 - d of the guesses at total variation distance d, coupling (1 - d) / (1 + d) of
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


def test_rejection_masked_and_banned_ids_are_never_chosen():
    logits = np.zeros(4, np.float32)
    allowed = np.array([False, True, True, False])
    for seed in range(200):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed, banned=(2,)), 4)
        assert rejection.choose(sampler, logits, allowed, 0, (np.array([0]), np.ones(1))) == 1
        assert sampler.step == 1


@pytest.mark.parametrize("penalties", [{}, {"presence_penalty": 0.8, "frequency_penalty": 0.5}])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_sampler_rewind_restores_the_state(temperature, penalties):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((12, 30)).astype(np.float32)
    settings = Sampling(temperature=temperature, repetition_penalty=1.5, seed=3, top_k=9, **penalties)
    plain, other = (Sampler(settings, 30, [4, 5]) for _ in range(2))
    expected = [plain.choose(row) for row in rows]
    for at in range(len(rows)):
        mark = other.mark()
        for row in rows[: at % 4]:  # guesses that are dropped
            other.guess(row)
        other.rewind(mark)
        token, confidence = Sampler.guess(other, rows[at])
        assert token == expected[at] and 0 < confidence <= 1
        other.rewind(mark)
        if temperature:
            ids, probabilities = other.distribution(rows[at])
            assert confidence == pytest.approx(probabilities[ids.searchsorted(token)])
        other.accept(expected[at])
    assert other.step == (12 if temperature else 0)
