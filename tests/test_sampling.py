"""The sampler compared with Hugging Face's logits processors and with its own specification; its statistics."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edgekit.errors import SettingError
from edgekit.inference import sampling
from edgekit.inference.sampling import (
    GAMMA,
    MASK,
    SORTED_AT_ONCE,
    Sampler,
    bound_of_largest,
    keep_top_k,
    log_softmax,
    mix,
    softmax,
    uniform,
)
from edgekit.settings import Generating, Sampling


def hugging_face(logits: np.ndarray, s: Sampling, history: list[int]) -> np.ndarray:
    """Probabilities (vocab_size,) by transformers' processors, in the order of `generate`."""
    torch = pytest.importorskip("torch")
    from transformers import generation as g

    chain = g.LogitsProcessorList()
    if s.repetition_penalty != 1:
        chain.append(g.RepetitionPenaltyLogitsProcessor(float(s.repetition_penalty)))
    if s.temperature != 1:
        chain.append(g.TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        chain.append(g.TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        chain.append(g.TopPLogitsWarper(s.top_p))
    if s.min_p:
        chain.append(g.MinPLogitsWarper(s.min_p))
    scores = chain(torch.tensor([history]), torch.tensor(logits[None]))
    return torch.softmax(scores[0], -1).numpy()


def ours(logits: np.ndarray, s: Sampling, history: list[int]) -> np.ndarray:
    ids, probabilities = Sampler(s, logits.size, history).distribution(logits)
    dense = np.zeros(logits.size)
    dense[ids] = probabilities
    return dense


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 40, 5000])
@pytest.mark.parametrize("top_p", [0.1, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.5])
def test_distribution_all_filters_equals_hugging_face(temperature, top_k, top_p, min_p):
    s = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=1.2)
    rng = np.random.default_rng(int(temperature * 10) + top_k)
    for spread in (0.5, 3.0):
        logits = (spread * rng.standard_normal(8064)).astype(np.float32)
        history = rng.integers(0, 8064, 50).tolist()
        assert np.abs(ours(logits, s, history) - hugging_face(logits, s, history)).max() < 1e-6


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.2, 2.0])
def test_penalty_repeated_prompt_ids_count_once(penalty):
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(100).astype(np.float32)
    s = Sampling(temperature=1.0, repetition_penalty=penalty)
    history = [5, 5, 5, 7, 99, 0]
    assert np.abs(ours(logits, s, history) - hugging_face(logits, s, history)).max() < 1e-6


def test_penalty_chosen_tokens_are_counted():
    logits = np.array([3.0, 2.9, 0.0], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0), 3)
    assert [sampler.choose(logits) for _ in range(3)] == [0, 1, 0]  # 3 -> 1.5 < 2.9 -> 1.45 < 1.5


def test_presence_and_frequency_penalty_equal_openais_formula():
    """logits[j] - c[j] * frequency_penalty - (c[j] > 0) * presence_penalty, with the counts c over the new text."""
    logits = np.random.default_rng(4).standard_normal(30).astype(np.float32)
    for presence, frequency in ((0.6, 0.0), (0.0, 0.4), (1.5, -0.3), (-1.0, 2.0)):
        s = Sampling(temperature=1.0, presence_penalty=presence, frequency_penalty=frequency)
        sampler = Sampler(s, 30, [1, 2, 2, 3])
        for token in (2, 5, 5, 9, 5):
            sampler.accept(token)
        counts = np.bincount([2, 5, 5, 9, 5], minlength=30)
        expected = softmax(logits - counts * frequency - (counts > 0) * presence)
        ids, probabilities = sampler.distribution(logits)
        assert ids.tolist() == list(range(30)) and np.abs(probabilities - expected).max() < 1e-6


def test_top_p_zero_keeps_the_most_likely():
    logits = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    logits[[70, 900]] = 9.0
    ids, probabilities = Sampler(Sampling(temperature=0.7, top_p=0), 5000).distribution(logits)
    assert ids.tolist() == [70] and probabilities.tolist() == [1]


# ---- the specification: the lines in sampling.py's docstring, executed ----------------------------------------------

SPECIFICATION = {"np": np, "uniform": uniform}
exec("\n".join(line[4:] for line in (sampling.__doc__ or "").splitlines() if line[:4].isspace()), SPECIFICATION)
candidates, draw = SPECIFICATION["candidates"], SPECIFICATION["draw"]


def assert_equals_specification(s: Sampling, prompt, steps) -> None:
    """Both choose a text from the same logits and masks; ids, probabilities and tokens are equal to the last bit."""
    sampler, text = Sampler(s, len(steps[0][0]), prompt), []
    for step, (logits, allowed) in enumerate(steps):
        before = logits.copy()
        ids, weights = candidates(logits, s, list(prompt), text, allowed)
        probabilities = weights / weights.sum()
        actual_ids, actual = sampler.distribution(logits, allowed)
        assert actual_ids.tolist() == ids.tolist() and actual.tolist() == probabilities.tolist()
        text.append(int(draw(ids, weights, sampler.seed, step)))
        assert sampler.choose(logits, allowed) == text[-1]
        assert np.array_equal(logits, before), "the caller's array is not changed"
        assert np.array_equal(actual, probabilities), "and what was returned belongs to the caller"


# Few different values make ties everywhere; minus infinity is what a damaged or masked model gives.
VALUES = st.one_of(
    st.sampled_from([-np.inf, -80.0, -2.0, -0.0, 0.0, 0.5, 1.0, 1.0000001, 3.0]), st.floats(-40, 40, width=32)
)
LOGITS = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1, max_size=4)
)
ALMOST = 1 - 2**-53  # so close to 1 that the last sums are one
CHAINS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.01, 0.3, 0.8, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 3, 7, 40, 41, 5000]),
    top_p=st.one_of(st.sampled_from([0.0, 1e-9, 0.25, 0.5, 0.75, 0.9999999, ALMOST, 1.0]), st.floats(0.001, 1.0)),
    min_p=st.one_of(st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.floats(0, 1)),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.2, 3.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, -2.0, 0.3, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -0.7, 0.1, 2.0]),
    seed=st.integers(0, 2**40),
)


@given(LOGITS, CHAINS, st.data())
@settings(max_examples=400, deadline=None)
def test_sampler_small_vocabulary_equals_specification(rows, s, data):
    size = len(rows[0])
    ids = st.lists(st.integers(0, size - 1), max_size=size)
    s = Sampling(**vars(s) | {"banned": tuple(data.draw(ids)) if size > 1 else (), "logit_bias": {0: 0.25}})
    allowed = data.draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=size, max_size=size).map(np.array)))
    possible = np.ones(size, bool) if allowed is None else allowed.copy()
    possible[list(s.banned)] = False
    steps = [(np.array(row, np.float32), allowed) for row in rows]
    assume(all((logits[possible] > -np.inf).any() for logits, _ in steps))
    assert_equals_specification(s, data.draw(ids), steps)


@given(
    CHAINS,
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.001, 0.1, 1.0, 3.0, 10.0]),
    st.sampled_from([SORTED_AT_ONCE - 3, 1024, 2 * SORTED_AT_ONCE + 5, 8064]),
    st.booleans(),
)
@example(Sampling(temperature=0.8, top_p=0.7, repetition_penalty=1.2, seed=0), 0, 0.0, 8064, False)
@example(Sampling(temperature=1.0, seed=0), 1, 1.0, 8064, True)
@settings(max_examples=150, deadline=None)
def test_sampler_real_vocabulary_equals_specification(s, seed, spread, size, tied):
    """Peaked, flat and equal logits of a real size, where only a part is sorted; `tied` ones have few values."""
    rng = np.random.default_rng(seed)
    rows = (spread * rng.standard_normal((3, size))).astype(np.float32)
    rows = np.round(rows * 4) / 4 if tied else rows
    assert_equals_specification(s, rng.integers(0, size, 300).tolist(), [(row, None) for row in rows])


def test_top_p_sum_equal_to_p_equals_specification():
    """Here the last bit decides, so the sums must be added in the order of the specification."""
    rng = np.random.default_rng(5)
    for spread in (1.0, 3.0):
        logits = (spread * rng.standard_normal(2000)).astype(np.float32)
        sums = np.cumsum(-np.sort(-np.exp(logits.astype(np.float64) - logits.max())))
        for place in (0, 1, 7, 100, 531, 800, 1500, 1900):
            for top_k in (0, 1950):
                assert_equals_specification(
                    Sampling(1.0, top_k, float(sums[place] / sums[-1]), seed=1), [], [(logits, None)]
                )
    for _ in range(20):
        logits = (10 * rng.standard_normal(2000)).astype(np.float32)
        assert_equals_specification(Sampling(temperature=1.0, top_p=ALMOST, seed=1), [], [(logits, None)])


@given(st.lists(VALUES, min_size=1, max_size=300), st.data())
def test_bound_of_largest_is_reached_by_at_least_count(values, data):
    values = np.array(values, np.float32)
    count = data.draw(st.integers(1, values.size))
    bound = bound_of_largest(values, count)
    assert np.count_nonzero(values >= bound) >= count
    assert keep_top_k(values, count).tolist() == np.flatnonzero(values >= np.sort(values)[-count]).tolist()


def test_choose_many_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=1), 4)
    counts = np.bincount([sampler.choose(logits) for _ in range(20_000)], minlength=4)
    expected = 20_000 * np.array([0.5, 0.3, 0.15, 0.05])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_choose_same_seed_gives_same_tokens_by_the_documented_race():
    logits = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    a, b = (Sampler(Sampling(temperature=1.0, seed=7), 50) for _ in range(2))
    tokens = [a.choose(logits) for _ in range(20)]
    assert tokens == [b.choose(logits) for _ in range(20)] and len(set(tokens)) > 5
    # The race of the module's docstring, in plain integers.
    probabilities = softmax(logits)
    for step, token in enumerate(tokens):
        start = mix(mix(7) + GAMMA * (step + 1) & MASK)
        u = [((mix(start + GAMMA * (id + 1) & MASK) >> 11) + 0.5) / 2**53 for id in range(50)]
        assert token == min(range(50), key=lambda id: -np.log(u[id]) / probabilities[id])


def test_mix_equals_published_splitmix64():
    # The first outputs of the published generator (Vigna's splitmix64.c) for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mix(1234567 + GAMMA * n & MASK) for n in (1, 2, 3)] == published


def test_uniform_over_ids_steps_and_seeds_is_uniform():
    ids = np.arange(8064)
    by_id = uniform(1, 0, ids)
    by_step = np.array([uniform(1, step, ids[:1])[0] for step in range(4000)])
    by_seed = np.array([uniform(seed, 0, ids[:1])[0] for seed in range(4000)])
    for u in (by_id, by_step, by_seed):
        counts, _ = np.histogram(u, 20, (0, 1))
        assert ((counts - u.size / 20) ** 2 / (u.size / 20)).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.06


def test_choose_rounding_error_hardly_ever_changes_the_token():
    """The reason for a race: with cumulated probabilities, some ten of 4,000 draws differ at this error."""
    rng = np.random.default_rng(2)
    settings = Sampling(temperature=0.8, top_p=0.9, top_k=200, seed=3)
    a, b = Sampler(settings, 8064), Sampler(settings, 8064)
    differ = 0
    for _ in range(1000):
        logits = (2 * rng.standard_normal(8064)).astype(np.float32)
        rounded = logits + rng.uniform(-1e-5, 1e-5, 8064).astype(np.float32)
        differ += a.choose(logits) != b.choose(rounded)
    assert differ <= 1


def test_seed_none_is_drawn_and_reported():
    first, second = Sampler(Sampling(), 4).seed, Sampler(Sampling(), 4).seed
    assert isinstance(first, int) and first != second


def test_choose_bias_bans_and_masks_are_applied():
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    assert Sampler(Sampling(logit_bias={0: 5.0}), 3).choose(logits) == 0
    assert Sampler(Sampling(banned=(2,)), 3).choose(logits) == 1
    assert Sampler(Sampling(), 3).choose(logits, np.array([True, False, False])) == 0
    assert logits.tolist() == [1.0, 2.0, 3.0], "the caller's array is not changed"
    with pytest.raises(SettingError, match="nothing can follow"):
        Sampler(Sampling(banned=(0, 1, 2)), 3).choose(logits)
    with pytest.raises(SettingError, match="banned: token id 3 is outside the vocabulary of 3"):
        Sampler(Sampling(banned=(3,)), 3)
    with pytest.raises(SettingError, match="temperature 1e-45 is too small"), np.errstate(all="ignore"):
        Sampler(Sampling(temperature=1e-45), 3).choose(logits)
    with pytest.raises(SettingError, match="not finite"):
        Sampler(Sampling(), 3).choose(np.array([1.0, np.nan, 0.0], np.float32))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": -0.1},
        {"top_p": 1.01},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -2.1},
        {"seed": -3},
        {"max_new_tokens": 0},
        {"stop": ("",)},
        {"truncate": "right"},
    ],
)
def test_settings_value_out_of_range_is_refused_by_name(values):
    (name,) = values
    with pytest.raises(SettingError, match=name):
        Generating(**values)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40))
def test_log_softmax_equals_logarithm_of_softmax(values):
    logits = np.array(values, np.float32)
    assert np.allclose(np.exp(log_softmax(logits)), softmax(logits), atol=1e-12)
