"""The C sampler compared with the Python one: tokens, distributions, states, errors; and its own arithmetic."""

import ctypes
import dataclasses
import hashlib
import itertools
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from speculative_toys import Hashed, Spelled

from edgekit.errors import SettingError
from edgekit.inference import engine_sampler, samplers
from edgekit.inference.engine_sampler import EngineSampler
from edgekit.inference.sampling import SORTED_AT_ONCE, Sampler
from edgekit.inference.speculative import pace
from edgekit.model import Model
from edgekit.settings import Sampling

ALMOST = 1 - 2**-53
DRAWS = 100_000


@pytest.fixture(scope="session")
def both(engine_library):
    """The two samplers of one text."""

    def make(settings, vocab_size, history=(), ends=()):
        arguments = settings, vocab_size, history, ends
        return Sampler(*arguments), EngineSampler(*arguments, engine=engine_library)

    return make


def pick(rng, values):
    return values[rng.integers(len(values))]


def random_settings(rng, size) -> Sampling:
    """Every filter and penalty, alone and together, with values at their edges."""
    some = lambda count: rng.integers(0, size, rng.integers(0, count + 1)).tolist()  # noqa: E731
    on = rng.random(7) < 0.4
    settings = Sampling(
        temperature=pick(rng, [0.0, 0.01, 0.3, 0.8, 1.0, 1.0, 2.5]),
        top_k=pick(rng, [1, 2, 7, 40, 41, 300, 5000]) if on[0] else 0,
        top_p=pick(rng, [0.0, 1e-9, 0.25, 0.5, 0.75, 0.95, 0.9999999, ALMOST, rng.random()]) if on[1] else 1.0,
        min_p=pick(rng, [1e-320, 1e-9, 0.05, 0.5, 1.0, rng.random()]) if on[2] else 0.0,
        repetition_penalty=pick(rng, [0.5, 1.2, 1.2, 3.0]) if on[3] else 1.0,
        presence_penalty=pick(rng, [-2.0, 0.3, 1.0]) if on[4] else 0.0,
        frequency_penalty=pick(rng, [-0.7, 0.1, 2.0]) if on[4] else 0.0,
        seed=int(rng.integers(2**63)),
        logit_bias={id: float(rng.normal()) for id in some(3)} if on[5] else {},
        banned=tuple(some(2)) if on[5] and size > 4 else (),
    )
    if on[6] and size > 4 and rng.random() < 0.5:
        settings = dataclasses.replace(
            settings,
            no_repeat_ngram_size=pick(rng, [0, 2, 3, 4]),
            suppress_tokens=(*some(1), size + 3),
            bad_words_ids=tuple([*some(2), int(rng.integers(size))] for _ in range(rng.integers(3))),
            exponential_decay_length_penalty=pick(rng, [None, (2, 1.1), (0, 0.9), (1, 3e20)]),
        )
    return settings


def random_logits(rng, size, kind):
    """Peaked, flat, tied, or with values that are banned already."""
    row = (pick(rng, [0.001, 0.5, 2.0, 5.0, 12.0]) * rng.standard_normal(size)).astype(np.float32)
    if kind == 1:
        row = np.round(row * 2) / 2  # ties everywhere, both zeros
    if kind == 2:
        row[rng.random(size) < 0.3] = -np.inf
    if kind == 3:
        row = np.full(size, row[0])
    return row


def outcome(choose):
    """What a call returns, or its error's text."""
    try:
        return choose()
    except SettingError as error:
        return str(error)


def test_engine_sampler_100_000_draws_equal_python(both):
    """Prompts, penalties, filters, masks and ties at random; the same tokens, or the same errors."""
    rng, draws = np.random.default_rng(17), 0
    with np.errstate(all="ignore"):
        while draws < DRAWS:
            size = int(pick(rng, [1, 2, 7, 40, 150, 300, 513, SORTED_AT_ONCE + 200, 2500]))
            settings = random_settings(rng, size)
            prompt, ends = rng.integers(0, size, rng.integers(0, 30)).tolist(), [0, size - 1]
            python, engine = both(settings, size, prompt, ends)
            rows = [random_logits(rng, size, kind) for kind in range(4)]
            masks = [None, None, rng.random(size) < 0.7]
            for row, mask, _ in itertools.islice(
                itertools.product(rows, masks, range(1000)), 0, None, 1000 if size == 1 else 400
            ):
                expected = outcome(lambda: python.choose(row, mask))  # noqa: B023
                assert outcome(lambda: engine.choose(row, mask)) == expected, (size, settings)  # noqa: B023
                draws += 1
            assert python.mark() == engine.mark()


@pytest.mark.parametrize("size", [3, 130, 8064])
def test_engine_sampler_distribution_equals_python(both, size):
    """The same ids; probabilities that differ by the last bits of exp."""
    rng = np.random.default_rng(size)
    for round in range(150 if size < 8064 else 40):
        settings, row = random_settings(rng, size), random_logits(rng, size, round % 4)
        with np.errstate(all="ignore"):
            python, engine = both(settings, size, [0, 1, 2, 1])
            expected = outcome(lambda: python.distribution(row))  # noqa: B023
            actual = outcome(lambda: engine.distribution(row))  # noqa: B023
        if isinstance(expected, str):
            assert actual == expected
            continue
        np.testing.assert_array_equal(actual[0], expected[0], str(settings))
        np.testing.assert_allclose(actual[1], expected[1], rtol=4e-15)
        assert actual[0].dtype == np.intp and engine.step == 0
        token, confidence = engine.guess(row)
        expected_token, expected_confidence = python.guess(row)
        assert token == expected_token and confidence == pytest.approx(expected_confidence, rel=1e-5)


def test_engine_sampler_sum_equal_to_p_keeps_what_the_specified_order_of_adding_does(both):
    """Here the last bit decides, so the engine's own weights are added up, as the specification says."""
    rng = np.random.default_rng(5)
    for spread in (0.0, 1.0, 3.0, 10.0):
        row = (spread * rng.standard_normal(2000)).astype(np.float32)
        everything = both(Sampling(temperature=1.0), 2000)[1]
        everything.distribution(row)
        weights = np.zeros(2000)
        count = int((row - row.max() > -745).sum())
        weights[everything._ids[:count]] = everything._weights[:count]
        order = np.argsort(-weights, kind="stable")
        sums = np.cumsum(weights[order])
        for place in (0, 1, 7, 100, 531, 800, 1500, 1900):
            exact = min(float(sums[place] / sums[-1]), ALMOST)
            for p in (exact, float(np.nextafter(exact, 0)), min(float(np.nextafter(exact, 1)), ALMOST)):
                kept = np.sort(order[: (sums >= p * sums[-1]).argmax() + 1])
                engine = both(Sampling(temperature=1.0, top_p=p, seed=1), 2000)[1]
                assert engine.distribution(row)[0].tolist() == kept[weights[kept] > 0].tolist()


def test_engine_sampler_temperature_that_makes_ties_keeps_all_of_them(both):
    """Logits that differ before the division and not after it tie at the edge of top-k."""
    row = (1.9 + 2.0**-23 * np.arange(300) % 7).astype(np.float32)
    row[::3] = np.float32(1.9) + np.float32(2.0**-22) * (np.arange(100) % 5).astype(np.float32)
    more = 0
    for temperature in (1.9, 1.7, 1.85, 1e38):
        for k in (1, 5, 30, 90, 200, 257, 263, 270, 281, 290):
            python, engine = both(Sampling(temperature=temperature, top_k=k, seed=3), 300)
            ids = engine.distribution(row)[0].tolist()
            assert ids == python.distribution(row)[0].tolist()
            more += len(ids) > np.count_nonzero(row >= np.sort(row)[-k])
    assert more > 3


def test_engine_sampler_mark_and_rewind_repeat_the_same_tokens(both):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((30, 60)).astype(np.float32)
    rules = {"no_repeat_ngram_size": 3, "bad_words_ids": ((4, 5), (6,)), "exponential_decay_length_penalty": (3, 1.2)}
    for settings in (
        Sampling(temperature=1.0, seed=4, repetition_penalty=1.3),
        Sampling(temperature=0.9, seed=4, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.3),
        Sampling(frequency_penalty=1.0, **rules),
    ):
        python, engine = both(settings, 60, [1, 2, 1], [59])
        tokens = {}
        for sampler in (python, engine):
            first = [sampler.choose(row) for row in rows[:10]]
            mark = sampler.mark()
            second = [sampler.choose(row) for row in rows[10:20]]
            sampler.rewind(mark)
            assert [sampler.choose(row) for row in rows[10:20]] == second
            sampler.rewind(mark)
            for token in (3, 3, 17):
                sampler.accept(token)
            step, seen, text = sampler.mark()
            sampler.rewind((step + 1, seen, text))
            tokens[sampler] = [first, second, [sampler.choose(row) for row in rows[20:]], sampler.mark(), sampler.step]
        assert tokens[python] == tokens[engine]


def test_engine_sampler_long_text_grows(both, monkeypatch):
    """The engine's memory has a fixed size: a longer text moves to another block."""
    monkeypatch.setattr(engine_sampler, "SPARE", 3)
    rows = np.random.default_rng(0).standard_normal((100, 30)).astype(np.float32)
    settings = Sampling(temperature=1.0, seed=4, frequency_penalty=0.5, no_repeat_ngram_size=3)
    python, engine = both(settings, 30, [1, 2, 1])
    assert [engine.choose(row) for row in rows] == [python.choose(row) for row in rows]
    for token in range(30):
        python.accept(token)
        engine.accept(token)
    assert engine.guess(rows[0])[0] == python.guess(rows[0])[0] and engine.mark() == python.mark()


def test_engine_sampler_raises_as_python_does(both):
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    for settings, row in (
        (Sampling(banned=(0, 1, 2)), logits),
        (Sampling(temperature=1e-45), logits),
        (Sampling(temperature=1e-45, top_k=1), logits),
        (Sampling(logit_bias={0: 1e39}), logits),
        (Sampling(), np.array([1, np.nan, 0], np.float32)),
        (Sampling(temperature=1.0), np.array([1, np.inf, 0], np.float32)),
    ):
        with np.errstate(all="ignore"):
            for sampler in both(settings, 3):
                with pytest.raises(SettingError) as error:
                    sampler.choose(row)
                assert sampler.mark() == (0, 0, 0)
                if isinstance(sampler, Sampler):
                    expected = str(error.value)
            assert str(error.value) == expected
    for settings in (Sampling(banned=(3,)), Sampling(logit_bias={4: 1.0}), Sampling(bad_words_ids=((1, 7),))):
        with pytest.raises(SettingError, match="is outside the vocabulary of 3"):
            both(settings, 3)[1]
    engine = both(Sampling(), 3)[1]
    with pytest.raises(ValueError, match="4 logits for a vocabulary of 3"):
        engine.choose(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="a mask of 2 ids for a vocabulary of 3"):
        engine.choose(logits, np.ones(2, bool))
    with pytest.raises(IndexError):
        engine.accept(3)
    with pytest.raises(IndexError):
        both(Sampling(), 3)[1].__class__(Sampling(), 3, [3], engine=engine._engine)


def test_engine_sampler_arrays_of_any_layout_are_read(both):
    """Strided and float64 logits, and masks that change under the same name; the caller's arrays stay as they are."""
    engine = both(Sampling(repetition_penalty=2.0), 4)[1]
    wide = np.array([[1, 0], [2, 0], [5, 0], [0, 0]], np.float32)
    before = wide.copy()
    assert engine.choose(wide[:, 0]) == 2 and engine.choose(wide[:, 0].astype(np.float64)) == 2
    wide.flags.writeable = False
    assert engine.choose(wide[:, 0]) == 2
    row = wide[:, 0].copy()
    row.flags.writeable = False
    assert engine.choose(row) == 2
    mask = np.array([True, True, False, True])
    assert engine.choose(wide[:, 0], mask) == 1
    mask[1] = False
    assert engine.choose(wide[:, 0], mask) == 0
    mask.flags.writeable = False
    assert engine.choose(wide[:, 0], mask) == 0 and engine.choose(wide[:, 0], mask) == 0
    assert np.array_equal(wide, before)
    seeds = {both(Sampling(), 4)[1].seed for _ in range(3)}
    assert len(seeds) == 3


# ---- the arithmetic --------------------------------------------------------------------------------------------------


def exact_error(value: float, exact: Decimal) -> float:
    """In units in the last place of the exact result."""
    return float(abs(Decimal(value) - exact) / Decimal(math.ulp(float(exact))))


def test_engine_exponential_is_below_one_ulp(both):
    """Weights are exp(logit - largest): one logit is 0, the others go down to where exp becomes subnormal and 0."""
    rng = np.random.default_rng(1)
    values = np.concatenate([-rng.random(1500), -30 * rng.random(1500), -744 * rng.random(500)]).astype(np.float32)
    row = np.concatenate([[0], values, [-745.0, -745.13, -745.14, -800, -np.inf]]).astype(np.float32)
    engine = both(Sampling(temperature=1.0), row.size)[1]
    engine._ids, engine._weights = np.empty(row.size, np.int32), np.empty(row.size, np.float64)
    engine.distribution(row)
    count = int((row > -745.14).sum())
    assert np.array_equal(np.sort(row[row > -745.14])[::-1], np.sort(row[engine._ids[:count]])[::-1])
    with localcontext() as context:
        context.prec = 60
        errors = [
            exact_error(weight, Decimal(float(row[id])).exp())
            for id, weight in zip(engine._ids[:count].tolist(), engine._weights[:count].tolist(), strict=True)
        ]
    assert max(errors) < 0.9


def test_engine_kept_text_of_errors_and_memory_is_checked(engine_library):
    """What C callers get for a block that is too small, not aligned, or for settings out of range."""
    both_settings = engine_sampler.Settings()
    EngineSampler(Sampling(), 3, engine=engine_library)  # declares the prototypes
    engine_library.ek_sampling_defaults(ctypes.byref(both_settings))
    size = engine_library.ek_sampler_size(ctypes.byref(both_settings), 10, 0)
    memory = np.empty(size + 64, np.uint8)
    at = memory.ctypes.data + -memory.ctypes.data % 64

    def init(address, size, vocab_size=10):
        error, sampler = ctypes.create_string_buffer(256), ctypes.c_void_p()
        status = engine_library.ek_sampler_init(
            ctypes.byref(sampler), address, size, ctypes.byref(both_settings), vocab_size, 0, None, 0, error
        )
        return status, error.value.decode()

    assert init(at, size) == (0, "")
    assert init(at, size - 1) == (-3, f"the sampler needs {size} bytes, not {size - 1}")
    assert init(at + 4, size) == (-3, "the sampler's memory is not aligned to 64 bytes")
    assert init(at, size, 0)[0] == -4
    both_settings.top_p = float("nan")
    assert init(at, size) == (-4, "top_p is out of range")


def test_engine_weights_are_the_same_bits_everywhere(both):
    """A golden hash, which plain C, AVX2, AVX-512 and 64-bit ARM share."""
    rng, digest = np.random.Generator(np.random.PCG64(1)), hashlib.sha256()
    for temperature, top_k, top_p, min_p in itertools.product((0.35, 1.0, 2.0), (0, 40), (1.0, 0.93), (0.0, 0.03)):
        row = (rng.integers(-10_000, 10_000, 3000) / 1000).astype(np.float32)
        settings = Sampling(temperature, top_k, top_p, min_p, repetition_penalty=1.2, seed=7)
        engine = both(settings, 3000, range(50))[1]
        count = engine.distribution(row)[0].size
        digest.update(
            engine._ids[:count].tobytes() + engine._weights[:count].tobytes() + bytes([engine.choose(row) % 251])
        )
    assert digest.hexdigest()[:16] == "c2f6ab1521f4ca49"


# ---- which sampler a text gets ---------------------------------------------------------------------------------------


@pytest.fixture
def installed(engine_library, monkeypatch):
    """The engine as if it were installed."""
    monkeypatch.setattr(samplers.engine, "library", lambda: engine_library)


def test_new_sampler_takes_the_engine_where_it_is_installed(installed, monkeypatch):
    assert isinstance(samplers.new_sampler(Sampling(), 3), EngineSampler)
    monkeypatch.setattr(samplers.engine, "library", lambda: None)
    assert isinstance(samplers.new_sampler(Sampling(), 3), Sampler)


PIECES = [b"", b"a", b"b", b"c", b"d", b"\xc3", b"\xa9"]
CHAIN = {"temperature": 1.1, "top_k": 5, "top_p": 0.93, "min_p": 0.02, "repetition_penalty": 1.4, "seed": 5}


@pytest.mark.parametrize("draft", [None, "model", "ngram", "rejection"])
def test_generate_with_the_engines_sampler_gives_the_same_text(monkeypatch, engine_library, draft):
    """Also with drafts, which mark, rewind, accept and guess; with masks; and with the distribution of each step."""
    monkeypatch.setattr(pace, "PLAIN_CALLS", 0)
    made = []
    for library in (None, engine_library):
        monkeypatch.setattr(samplers.engine, "library", lambda library=library: library)
        target = Model(Hashed(7, order=2), Spelled(PIECES))
        guesser = Model(Hashed(7, order=2, wrong=0.3), Spelled(PIECES)) if draft != "ngram" else draft
        chain = dict(CHAIN, ban_replacement=True, max_new_tokens=40, ignore_eos=True)
        if draft is not None:
            sampling = "rejection" if draft == "rejection" else "coupled"
            chain |= {"draft": guesser, "draft_tokens": 3, "draft_sampling": sampling}
        stream = target.stream([1, 2], **chain)
        steps = list(stream.steps(distribution=True))
        made.append([(step.token, step.distribution.ids.tolist()) for step in steps] + [stream.result.text])
        assert len(steps) == 40 and (draft is None or stream.result.draft.drafted > 5)
    assert made[0] == made[1]
