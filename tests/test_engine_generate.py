"""The engine's generation loop in C compared with `Stream` on the same logits: tokens, pieces of text, ends."""

import ctypes
import functools
import itertools
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p

import numpy as np
import pytest
from engine_build import make
from engine_models import GROUPED, Model, aligned, pointer, seeded_gguf
from engine_tokenizers import gguf
from handmade import small
from helpers import tokenmonster_files
from test_utf8_mask import byte_level_bpe

from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference.engine_sampler import Settings, engine_settings
from edgekit.inference.generate import Stream
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.settings import Generating
from edgekit.tokenizers.engine import EngineTokenizer
from edgekit.tokenizers.load import from_files

FINISH = {1: "stop", 2: "length", 3: "cancelled"}


class How(Structure):
    """`ek_generating`."""

    _fields_ = [
        ("sampling", Settings),
        ("stops", POINTER(c_char_p)),
        *((name, c_uint32) for name in "stop_count max_new_tokens ignore_ends ban_replacement reuse".split()),
    ]


class NewToken(Structure):
    """`ek_new_token`."""

    _fields_ = [("token", c_uint32), ("finish", c_uint32), ("text", c_void_p), ("length", c_size_t)]

    @property
    def bytes(self):
        return ctypes.string_at(self.text, self.length)


ON_TOKEN = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(NewToken))


class Engine:
    """A model and its tokenizer in C, and the same two for Python: a runtime on `ek_forward`."""

    def __init__(self, library, data, files, tokenizer_data=None, *, lean=False):
        self.library, self.model = library, Model(library, data, direct=int(lean))
        self.vocab_size, self.context_length = self.model.info.vocabulary, self.model.info.context
        self.files, self.length = files, 0
        self.tokenizer = from_files(files, self.vocab_size)
        self.engine_tokenizer = EngineTokenizer(library, tokenizer_data or data, compact=lean)
        library.ek_generation_size.restype = c_size_t
        library.ek_generation_next.argtypes = [c_void_p, POINTER(NewToken)]

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        self.length += len(tokens)
        return self.model.forward(tokens, every=every)

    def rewind(self, length):
        check_rewind(self, length)
        self.model.rewind(length)
        self.length = length

    def python(self, prompt, settings, ends=()):
        """(token, text) of each step, and why it ended."""
        self.rewind(0)
        stream = Stream(self, self.tokenizer, prompt, settings, ends=ends)
        steps = [(step.token, step.text) for step in stream.steps()]
        self.length = 0
        return steps, stream.result.finish_reason

    def arguments(self, prompt, settings, ends=(), reuse=0, tokens_only=False):
        how = How(
            engine_settings(self.library, settings, settings.seed or 0, self.vocab_size, ends),
            (c_char_p * len(settings.stop))(*(stop.encode() for stop in settings.stop)),
            len(settings.stop), settings.max_new_tokens, settings.ignore_eos, settings.ban_replacement, reuse,
        )  # fmt: skip
        ids = np.array(prompt, np.uint32)
        tokenizer = None if tokens_only else self.engine_tokenizer._handle
        size = self.library.ek_generation_size(self.model.handle, tokenizer, byref(how), len(ids))
        memory = aligned(size)
        return [pointer(memory), c_size_t(size), self.model.handle, tokenizer, byref(how), pointer(ids), len(ids)], [
            memory, ids, how
        ]  # fmt: skip

    def engine(self, prompt, settings, ends=(), **more):
        """The same from the C loop."""
        arguments, alive = self.arguments(prompt, settings, ends, **more)
        generation, error, token = c_void_p(), ctypes.create_string_buffer(256), NewToken()
        status = self.library.ek_generation_start(byref(generation), *arguments, error)
        assert status == 0, error.value
        steps = []
        while (status := self.library.ek_generation_next(generation, byref(token))) == 1:
            steps.append((token.token, token.bytes.decode(errors="replace")))
        assert status == 0 and alive
        return steps, FINISH[token.finish]


@pytest.fixture(scope="module")
def engine(engine_library, bundled, tmp_path_factory):
    """name -> Engine: the bundled model; seeded models with other tokenizers, which draw broken characters."""
    folder = tmp_path_factory.mktemp("generate")

    @functools.cache
    def make(name):
        name, lean = name.removesuffix(", lean"), name.endswith(", lean")
        if name == "bundled":
            from edgekit.conversion import convert
            from edgekit.formats.gguf import GGUFFile
            from edgekit.settings import Converting

            path, *_ = convert.convert(bundled, "gguf", folder / f"{lean}.gguf", settings=Converting("q8_0"))
            return Engine(engine_library, path.read_bytes(), GGUFFile(path).files(), lean=lean)
        if name.startswith("level"):
            files = tokenmonster_files(small(int(name[-1])).to_bytes(), 384)
            rows = 384
        else:
            rows = 448
            files = {"tokenizer.json": byte_level_bpe(), "tokenizer_config.json": b'{"eos_token": "<|end|>"}'}
        config = LlamaConfig(**{**vars(GROUPED), "vocab_size": rows})
        data = seeded_gguf(folder / f"{name}.gguf", "Q8_0", config, seed=3).read_bytes()
        return Engine(engine_library, data, files, gguf(files, rows), lean=lean)

    return make


@pytest.mark.parametrize("name", ["bundled", "level 1", "level 2", "byte-level bpe", "bundled, lean", "level 2, lean"])
def test_generation_equals_stream(engine, name):
    """Every combination of ends, limits, stop strings and masks; greedy and drawn."""
    both, rng, reasons = engine(name), np.random.default_rng(1), set()
    prompt = both.tokenizer.encode("The cat sat on the mat and")
    stops = [(), ("the", "zz"), (" a", "e", "th"), ("é", "mat")]
    for stop, ban, ignore in itertools.product(stops, (False, True), (False, True)):
        settings = Generating(
            temperature=float(rng.choice([0.0, 0.9, 1.5])), top_k=int(rng.choice([0, 40])),
            top_p=float(rng.choice([1.0, 0.9])), min_p=float(rng.choice([0.0, 0.02])), repetition_penalty=1.2,
            seed=int(rng.integers(1000)), stop=stop, ban_replacement=ban, ignore_eos=ignore,
            max_new_tokens=int(rng.choice([1, 2, 30, 60 if name == "bundled" else 1000])),
        )  # fmt: skip
        ends = rng.integers(0, both.vocab_size, 5).tolist()
        expected = both.python(prompt, settings, ends)
        assert both.engine(prompt, settings, ends) == expected, settings
        reasons.add(expected[1])
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("name, ban", [("bundled", False), ("level 2", True)])
def test_choice_is_streams_distribution_and_changes_nothing(engine, name, ban):
    both = engine(name)
    prompt = both.tokenizer.encode("The cat sat")
    settings = Generating(
        temperature=0.9, top_p=0.9, repetition_penalty=1.3, presence_penalty=0.5, seed=4, max_new_tokens=24,
        ban_replacement=ban, ignore_eos=True,
    )  # fmt: skip
    arguments, alive = both.arguments(prompt, settings)
    generation, token, logits = c_void_p(), NewToken(), c_void_p()
    ids, weights = np.zeros(both.vocab_size, np.uint32), np.zeros(both.vocab_size)
    assert both.library.ek_generation_start(byref(generation), *arguments, ctypes.create_string_buffer(256)) == 0
    asked = (generation, byref(logits), pointer(ids), pointer(weights))
    assert both.library.ek_generation_choice(*asked) == -4, "no token yet"
    found = []
    while both.library.ek_generation_next(generation, byref(token)) == 1:
        count = both.library.ek_generation_choice(*asked)
        found.append((token.token, ids[:count].copy(), weights[:count] / weights[:count].sum()))
    assert alive and len(found) == 24
    both.rewind(0)
    stream = Stream(both, both.tokenizer, prompt, settings)
    for (chosen, possible, chances), step in zip(found, stream.steps(distribution=True), strict=True):
        assert chosen == step.token
        np.testing.assert_array_equal(possible, step.distribution.ids)
        np.testing.assert_allclose(chances, step.distribution.probabilities, rtol=1e-9)


def test_generation_of_tokens_alone_and_reused_prompts_equal_stream(engine):
    both = engine("bundled")
    prompt = both.tokenizer.encode("Once upon a time there was a little")
    settings = Generating(temperature=0.8, top_p=0.9, seed=3, max_new_tokens=20, repetition_penalty=1.2)
    expected = both.python(prompt, settings)
    tokens, reason = both.engine(prompt, settings, tokens_only=True, ends=both.tokenizer.stop)
    assert ([token for token, _ in tokens], reason) == ([token for token, _ in expected[0]], expected[1])
    assert {text for _, text in tokens} == {""}
    both.model.rewind(len(prompt) - 1)
    assert both.engine(prompt, settings, reuse=len(prompt) - 1) == expected


def test_generate_calls_back_and_can_be_cancelled(engine):
    both = engine("bundled")
    prompt = both.tokenizer.encode("Once upon a time")
    settings = Generating(max_new_tokens=12, stop=("never in this text",))
    expected, reason = both.python(prompt, settings)
    arguments, alive = both.arguments(prompt, settings)
    for most in (100, 5):
        seen = []

        @ON_TOKEN
        def on_token(context, token):
            seen.append((token.contents.token, token.contents.bytes.decode(), token.contents.finish))  # noqa: B023
            return len(seen) == most  # noqa: B023

        both.model.rewind(0)
        status = both.library.ek_generate(*arguments, on_token, None, None)
        assert FINISH[status] == (reason if most == 100 else "cancelled") and alive
        if most == 100:
            assert [(token, text) for token, text, _ in seen] == expected
        else:
            assert [(token, text) for token, text, _ in seen[:5]] == expected[:5]
            assert len(seen) == 6 and seen[5][2] == 3, "a last call has what was kept back"
            whole = "".join(text for _, text, _ in seen)
            assert (
                whole
                == both.tokenizer.decode([*prompt, *(token for token, *_ in seen[:5])])[
                    len(both.tokenizer.decode(prompt)) :
                ]
            )


def test_generation_invalid_arguments_are_refused(engine):
    both = engine("bundled")
    for prompt, settings, more, message in (
        ([], Generating(), {}, "the prompt is empty"),
        ([9999], Generating(), {}, "prompt: token id 9999 is outside the vocabulary of 8064"),
        ([1] * 600, Generating(), {}, "the prompt has 600 tokens, but the context holds 512"),
        ([1, 2], Generating(), {"reuse": 2}, "reuse: the cache has no 2 tokens"),
        ([1], Generating(stop=("a",)), {"tokens_only": True}, "need a tokenizer"),
        ([1], Generating(temperature=1.0), {"ends": (1,)}, "a generation needs"),
    ):
        arguments, alive = both.arguments(prompt, settings, **more)
        error, generation = ctypes.create_string_buffer(256), c_void_p()
        if message == "a generation needs":
            arguments[1] = c_size_t(arguments[1].value - 1)
        assert both.library.ek_generation_start(byref(generation), *arguments, error) < 0 and alive
        assert message in error.value.decode()


@pytest.mark.slow
def test_generation_under_the_sanitizers_reads_and_writes_nothing_outside(bundled, tmp_path):
    from edgekit.conversion import convert
    from edgekit.settings import Converting

    path, *_ = convert.convert(bundled, "gguf", tmp_path / "m.gguf", settings=Converting("q4_0"))
    assert "generate: 48 texts" in make("test-model", MODEL=str(path))
