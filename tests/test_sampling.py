"""The sampler against Hugging Face's own logits processors, and its own laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import SettingError
from edgekit.sampling import FIRST_LOOKS, GAMMA, MASK, Sampler, keep_top_p, log_softmax, mix, softmax, uniform
from edgekit.settings import Generating, Sampling


def hugging_face(logits: np.ndarray, s: Sampling, history: list[int]) -> np.ndarray:
    """Probabilities (vocab_size,) by transformers' processors, put in the order that `generate` puts them."""
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
def test_filtered_probabilities_equal_hugging_faces(temperature, top_k, top_p, min_p):
    s = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=1.2)
    rng = np.random.default_rng(int(temperature * 10) + top_k)
    for spread in (0.5, 3.0):
        logits = (spread * rng.standard_normal(8064)).astype(np.float32)
        history = rng.integers(0, 8064, 50).tolist()
        assert np.abs(ours(logits, s, history) - hugging_face(logits, s, history)).max() < 1e-6


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.2, 2.0])
def test_penalty_counts_the_prompt_and_each_id_once(penalty):
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(100).astype(np.float32)
    s = Sampling(temperature=1.0, repetition_penalty=penalty)
    history = [5, 5, 5, 7, 99, 0]
    assert np.abs(ours(logits, s, history) - hugging_face(logits, s, history)).max() < 1e-6


def test_penalty_counts_what_was_chosen():
    logits = np.array([3.0, 2.9, 0.0], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0), 3)
    assert [sampler.choose(logits) for _ in range(3)] == [0, 1, 0]  # 3 -> 1.5 < 2.9 -> 1.45 < 1.5


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=3 * FIRST_LOOKS[0]),
    st.floats(0.01, 0.999),
)
@settings(max_examples=200, deadline=None)
def test_top_p_keeps_the_fewest_that_reach_p(values, p):
    probabilities = softmax(np.array(values, np.float32))
    kept = keep_top_p(probabilities, p)
    assert kept.size and (np.diff(kept) > 0).all()
    total = probabilities[kept].sum()
    assert total >= p - 1e-9
    assert total - probabilities[kept].min() < p + 1e-9
    outside = np.delete(probabilities, kept)
    assert outside.size == 0 or outside.max() <= probabilities[kept].min()


def test_first_look_changes_nothing():
    rng = np.random.default_rng(0)
    for spread in (0.1, 1.0, 6.0):
        probabilities = softmax((spread * rng.standard_normal(8064)).astype(np.float32))
        order = np.argsort(-probabilities, kind="stable")
        for p in (0.05, 0.5, 0.9, 0.999):
            before = np.cumsum(probabilities[order]) - probabilities[order]
            assert keep_top_p(probabilities, p).tolist() == np.sort(order[before < p]).tolist()


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=1), 4)
    counts = np.bincount([sampler.choose(logits) for _ in range(20_000)], minlength=4)
    expected = 20_000 * np.array([0.5, 0.3, 0.15, 0.05])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_same_seed_same_tokens_and_the_stated_law():
    logits = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    a, b = (Sampler(Sampling(temperature=1.0, seed=7), 50) for _ in range(2))
    tokens = [a.choose(logits) for _ in range(20)]
    assert tokens == [b.choose(logits) for _ in range(20)] and len(set(tokens)) > 5
    # The law in the module's docstring, in plain integers.
    probabilities = softmax(logits)
    for step, token in enumerate(tokens):
        start = mix(mix(7) + GAMMA * (step + 1) & MASK)
        u = [((mix(start + GAMMA * (id + 1) & MASK) >> 11) + 0.5) / 2**53 for id in range(50)]
        assert token == min(range(50), key=lambda id: -np.log(u[id]) / probabilities[id])


def test_mix_is_splitmix64():
    # The first outputs of the published generator (Vigna's splitmix64.c) for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mix(1234567 + GAMMA * n & MASK) for n in (1, 2, 3)] == published


def test_uniform_is_uniform_over_ids_steps_and_seeds():
    ids = np.arange(8064)
    by_id = uniform(1, 0, ids)
    by_step = np.array([uniform(1, step, ids[:1])[0] for step in range(4000)])
    by_seed = np.array([uniform(seed, 0, ids[:1])[0] for seed in range(4000)])
    for u in (by_id, by_step, by_seed):
        counts, _ = np.histogram(u, 20, (0, 1))
        assert ((counts - u.size / 20) ** 2 / (u.size / 20)).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.06


def test_a_rounding_error_hardly_ever_changes_the_draw():
    """Why it is a race: with cumulated probabilities, 4,000 draws at this error differ some ten times."""
    rng = np.random.default_rng(2)
    settings = Sampling(temperature=0.8, top_p=0.9, top_k=200, seed=3)
    a, b = Sampler(settings, 8064), Sampler(settings, 8064)
    differ = 0
    for _ in range(1000):
        logits = (2 * rng.standard_normal(8064)).astype(np.float32)
        rounded = logits + rng.uniform(-1e-5, 1e-5, 8064).astype(np.float32)
        differ += a.choose(logits) != b.choose(rounded)
    assert differ <= 1


def test_a_seed_is_always_reported():
    first, second = Sampler(Sampling(), 4).seed, Sampler(Sampling(), 4).seed
    assert isinstance(first, int) and first != second


def test_bias_bans_and_masks():
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    assert Sampler(Sampling(logit_bias={0: 5.0}), 3).choose(logits) == 0
    assert Sampler(Sampling(banned=(2,)), 3).choose(logits) == 1
    assert Sampler(Sampling(), 3).choose(logits, np.array([True, False, False])) == 0
    assert logits.tolist() == [1.0, 2.0, 3.0], "the caller's array is left alone"
    with pytest.raises(SettingError, match="nothing can follow"):
        Sampler(Sampling(banned=(0, 1, 2)), 3).choose(logits)
    with pytest.raises(SettingError, match="banned: token id 3 is outside the vocabulary of 3"):
        Sampler(Sampling(banned=(3,)), 3)
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
        {"top_p": 0},
        {"top_p": 1.01},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"seed": -3},
        {"max_new_tokens": 0},
        {"stop": ("",)},
        {"truncate": "right"},
    ],
)
def test_bad_values_are_refused_by_name(values):
    (name,) = values
    with pytest.raises(SettingError, match=name):
        Generating(**values)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40))
def test_log_softmax_is_the_logarithm_of_softmax(values):
    logits = np.array(values, np.float32)
    assert np.allclose(np.exp(log_softmax(logits)), softmax(logits), atol=1e-12)
