"""The generation loop, on a runtime small enough to predict: it counts, and its tokenizer maps bytes."""

import codecs
import threading

import numpy as np
import pytest
from test_sampling import candidates

import edgekit
from edgekit.errors import ContextError, PromptError, SettingError
from edgekit.inference import samplers
from edgekit.inference.generate import StopText, fit, token_logprob
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.model import Model
from edgekit.settings import Generating
from edgekit.tokenizers.base import utf8
from edgekit.tokenizers.load import from_files


class Counting:
    """After token t the likeliest is t + 1, by a wide margin; byte 0 ends a text."""

    vocab_size = 256

    def __init__(self, context_length=64):
        self.context_length, self.length, self.calls, self.files = context_length, 0, [], {}

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        self.calls.append(list(tokens))
        self.length += len(tokens)
        logits = np.zeros((len(tokens), 256), np.float32)
        logits[np.arange(len(tokens)), (np.array(tokens) + 1) % 256] = 20
        return logits if every else logits[-1]

    def rewind(self, length):
        check_rewind(self, length)
        self.length = length


class Bytes:
    """One id per byte."""

    vocab_size, bos, stop = 256, None, frozenset({0})
    token_bytes = [b"", *(bytes([byte]) for byte in range(1, 256))]

    def encode(self, text, *, specials=False):
        return list(utf8(text))

    def decode(self, tokens):
        return bytes(t for t in tokens if t).decode(errors="replace")

    def decoder(self, context=()):
        class Stream:
            def __init__(self):
                self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
                self.utf8.decode(bytes(context))

            def feed(self, token):
                return self.utf8.decode(bytes([token]) if token else b"")

            def flush(self):
                return self.utf8.decode(b"", True)

        return Stream()


@pytest.fixture
def model():
    return Model(Counting(), Bytes())


def test_stream_max_new_tokens_ends_with_length(model):
    stream = model.stream("a", max_new_tokens=4)
    assert list(stream) == ["b", "c", "d", "e"]
    result = stream.result
    assert (result.text, result.tokens, result.finish_reason) == ("bcde", [98, 99, 100, 101], "length")
    assert result.prompt == [97] and result.timings.new_tokens == 4 and result.timings.prompt_tokens == 1
    assert model.runtime.calls == [[97], [98], [99], [100]], "no forward after the last token"


def test_generate_end_of_text_token_ends_with_stop(model):
    result = model.generate([253], max_new_tokens=10)
    assert result.tokens == [254, 255, 0] and result.finish_reason == "stop"
    assert result.text == "\ufffd\ufffd"


def test_generate_ignore_eos_continues_past_it(model):
    assert model.generate([254], max_new_tokens=4, ignore_eos=True).tokens == [255, 0, 1, 2]


@pytest.mark.parametrize(
    "stop, text", [("d", "bc"), ("de", "bc"), ("ef", "bcd"), ("gx", "bcdefghi"), (["zz", "ghi"], "bcdef")]
)
def test_stop_strings_across_tokens_end_the_text(model, stop, text):
    stream = model.stream("a", max_new_tokens=8, stop=stop)
    assert "".join(stream) == stream.result.text == text
    assert stream.result.finish_reason == ("length" if text == "bcdefghi" else "stop")


def test_stop_text_possible_beginning_is_kept_back():
    text = StopText(["<end>", "<e"])
    assert [text.add(p) for p in ("a<", "b<", "x<", "en")] == ["a", "<b", "<x", ""]
    assert text.found
    text = StopText(["<end>"])
    assert [text.add(p) for p in ("1<", "en", "d", "!")] == ["1", "", "", "<end!"]
    text = StopText(["<end>"])
    assert text.add("1<en") == "1" and text.flush() == "<en"


def test_generate_full_context_ends_with_length(model):
    result = model.generate([1] * 60, max_new_tokens=100)
    assert result.finish_reason == "length" and len(result.tokens) == 5  # the 65th needs no place in the cache
    with pytest.raises(ContextError, match="65 tokens.* 64"):
        model.generate([1] * 65)
    assert len(model.generate([1] * 64).tokens) == 1


def test_fit_truncate_left_keeps_bos_and_the_end():
    settings = Generating(truncate="left", max_new_tokens=4)
    assert fit([9, 1, 2, 3, 4, 5, 6, 7, 8, 8, 7], 10, settings, bos=9) == [9, 6, 7, 8, 8, 7]
    assert fit(list(range(30)), 10, settings, bos=None) == list(range(24, 30))
    assert fit(list(range(30)), 10, Generating(truncate="left", max_new_tokens=99), None) == list(range(25, 30))


def test_stream_cancelled_by_close_callback_or_thread(model):
    stream = model.stream("a")
    assert [next(stream), next(stream)] == ["b", "c"]
    stream.close()
    assert stream.result.text == "bc" and stream.result.finish_reason == "cancelled"

    seen = []
    stream = model.stream("a", cancelled=lambda: len(seen) >= 3)
    for piece in stream:
        seen.append(piece)
    assert stream.result.finish_reason == "cancelled" and stream.result.text == "".join(seen)

    stream = model.stream("a", ignore_eos=True)
    next(stream)
    thread = threading.Thread(target=stream.cancel)
    thread.start()
    thread.join()
    assert len(list(stream)) <= 1 and stream.result.finish_reason == "cancelled"


def test_stream_half_a_character_waits_and_is_flushed(model):
    stream = model.stream([0xC2], max_new_tokens=3)  # lead bytes C3 C4 C5, none with what it needs
    # C2 of the prompt shows once C3 has broken it, and so on; C5 is still waiting when the text ends.
    assert list(stream) == ["\ufffd", "\ufffd", "\ufffd\ufffd"]


def test_generate_logprobs_are_of_the_model(model):
    result = model.generate("a", max_new_tokens=2, logprobs=3)
    first = result.logprobs[0]
    assert first.token == 98 and first.top[0] == (98, first.logprob) and [i for i, _ in first.top] == [98, 0, 1]
    assert first.logprob == pytest.approx(20 - np.log(np.exp(20) + 255))
    assert token_logprob(np.zeros(4, np.float32), 2, 0).logprob == pytest.approx(-np.log(4))
    assert model.generate("a", max_new_tokens=1).logprobs is None


def test_generate_invalid_prompt_or_setting_raises(model):
    with pytest.raises(PromptError, match="empty"):
        model.generate([])
    model.tokenizer.stop = frozenset()
    with pytest.raises(PromptError, match="empty"):
        model.generate("")
    with pytest.raises(PromptError, match="not UTF-8"):
        model.generate("a\udc80")
    with pytest.raises(SettingError, match="unknown setting 'temprature'"):
        model.generate("a", temprature=1)
    with pytest.raises(SettingError, match="temperature"):
        model.generate("a", temperature=-1)


def test_generate_unset_settings_take_the_defaults():
    model = Model(Counting(), Bytes(), Generating(max_new_tokens=2))
    assert model.generate("a").text == "bc"
    assert model.generate("a", max_new_tokens=1).text == "b"


def test_generate_second_text_is_independent(model):
    first = model.generate("hello", max_new_tokens=3).tokens
    model.generate("other", max_new_tokens=9)
    assert model.generate("hello", max_new_tokens=3).tokens == first


# ---- tokens, one by one: `Stream.steps` ----

CHAINS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.2, "seed": 3},
    {"temperature": 0.9, "presence_penalty": 0.7, "frequency_penalty": 0.4, "seed": 3},
    {"temperature": 1.5, "seed": 8, "ignore_eos": True, "banned": (3, 4), "logit_bias": {7: 2.0}},
]


class Seeded(Counting):
    """Seeded logits after every token, which depend on the token and its position alone."""

    def __init__(self, vocab_size=256):
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        seeds = ([self.length + i, token] for i, token in enumerate(tokens))
        rows = [4 * np.random.default_rng(seed).standard_normal(self.vocab_size) for seed in seeds]
        self.calls.append(list(tokens))
        self.length += len(tokens)
        logits = np.array(rows, np.float32)
        return logits if every else logits[-1]


SPELLED = Bytes()


def seeded(**settings):
    """Models of one vocabulary, so that each can draft for another."""
    return Model(Seeded(), SPELLED, Generating(max_new_tokens=30, **settings))


@pytest.mark.parametrize("settings", CHAINS)
def test_steps_tokens_texts_and_logprobs_equal_generate(settings):
    expected = seeded(**settings).generate("once", logprobs=3)
    stream = seeded(**settings).stream("once", logprobs=3)
    steps = list(stream.steps(distribution=True))
    assert [step.token for step in steps] == expected.tokens == stream.result.tokens
    assert "".join(step.text for step in steps) == expected.text == stream.result.text
    assert [step.logprob for step in steps] == expected.logprobs
    assert stream.result.finish_reason == expected.finish_reason
    bare = list(seeded(**settings).stream("once").steps())
    assert [step.token for step in bare] == expected.tokens
    assert all(step.logprob is None and step.distribution is None for step in bare)


def test_encode_empty_prompt_takes_bos_or_else_eos(model):
    assert model.encode("") == [0], "the end-of-text token of a model without BOS"
    model.runtime.files = {"config.json": b'{"bos_token_id": 5}'}
    assert model.encode("") == [5] and model.encode("a") == [97]
    model.tokenizer.bos = 7
    assert model.encode("") == [7] and model.generate("", max_new_tokens=2).tokens == [8, 9]


@pytest.mark.parametrize("settings", CHAINS)
def test_steps_distribution_is_what_the_token_was_drawn_from(settings, monkeypatch):
    """Against the plain version of the sampler, on logits computed again, to the last bit of numpy's exp."""
    monkeypatch.setattr(samplers.engine, "library", lambda: None)
    model = seeded(**settings)
    stream = model.stream("once")
    steps, prompt, text = list(stream.steps(distribution=True)), [*stream.result.prompt], []
    again = Seeded()
    logits = again.forward(prompt)
    for step in steps:
        ids, weights = candidates(logits, Generating(**settings), prompt, text)
        drawn = step.distribution
        assert drawn.ids.tolist() == ids.tolist() and drawn.probabilities.tolist() == (weights / weights.sum()).tolist()
        assert drawn.probabilities.sum() == pytest.approx(1) and drawn.probability(step.token) > 0
        left_out = np.setdiff1d(np.arange(256), ids)
        assert left_out.size == 0 or drawn.probability(int(left_out[0])) == 0
        text.append(step.token)
        logits = again.forward([step.token])


def test_steps_distribution_respects_the_utf8_mask(bundled):
    files = {path.name: path.read_bytes() for path in bundled.iterdir() if path.suffix in (".json", ".vocab")}
    tokenizer = from_files(files, 8064)
    settings = {"max_new_tokens": 40, "temperature": 2.5, "seed": 4, "ban_replacement": True, "ignore_eos": True}
    prompt = tokenizer.encode("Once upon a time")
    expected = Model(Seeded(8064), tokenizer).generate(prompt, **settings)
    steps = list(Model(Seeded(8064), tokenizer).stream(prompt, **settings).steps(distribution=True))
    assert [step.token for step in steps] == expected.tokens and len(steps) == 40
    decoder, masked = tokenizer.decoder(prompt), 0
    for remaining, step in zip(reversed(range(40)), steps, strict=True):
        allowed = tokenizer.utf8_mask(decoder, remaining)
        masked += not allowed.all()
        assert allowed[step.distribution.ids].all() and step.distribution.probability(step.token) > 0
        decoder.feed(step.token)
    assert masked


@pytest.mark.parametrize("sampling", ["coupled", "rejection"])
def test_steps_with_a_draft_equal_generate(sampling):
    settings = {"temperature": 0.8, "top_k": 20, "seed": 5, "draft_sampling": sampling, "draft_tokens": 3}
    expected = seeded().generate("once", draft=seeded(), **settings)
    model = seeded()
    stream = model.stream("once", draft=seeded(), logprobs=0, **settings)
    steps = list(stream.steps(distribution=True))
    assert [step.token for step in steps] == expected.tokens and expected.draft.accepted > 0
    assert all(step.distribution.probability(step.token) > 0 for step in steps)
    assert "".join(step.text for step in steps) == expected.text
    assert model.runtime.length == len(stream.result.prompt) + len(steps) - 1, "the cache is that of the plain loop"


@pytest.mark.parametrize("stop, text", [("d", "bc"), ("de", "bc"), ("ef", "bcd"), ("gx", "bcdefghi")])
def test_steps_with_stop_strings_join_to_the_text(model, stop, text):
    stream = model.stream("a", max_new_tokens=8, stop=stop)
    steps = list(stream.steps())
    assert "".join(step.text for step in steps) == stream.result.text == text
    assert [step.token for step in steps] == stream.result.tokens


def test_steps_and_pieces_are_one_stream(model):
    stream = model.stream("a", max_new_tokens=4)
    assert next(stream) == "b"
    assert next(stream.steps()).token == ord("c")
    assert list(stream) == ["d", "e"] and stream.result.text == "bcde"
    assert model.runtime.calls == [[97], [98], [99], [100]]


def test_steps_are_computed_lazily(model):
    steps = model.stream("a", max_new_tokens=9).steps()
    assert model.runtime.calls == []
    next(steps)
    assert model.runtime.calls == [[97]]
    next(steps)
    assert model.runtime.calls == [[97], [98]]


def test_steps_result_is_complete_at_the_last_step(model):
    stream = model.stream("a", max_new_tokens=3)
    reasons = [stream.result.finish_reason for _ in stream.steps()]
    assert reasons == ["cancelled", "cancelled", "length"]


def test_steps_closed_early_keep_the_result_and_the_model_usable(model):
    expected = model.generate("a", max_new_tokens=5).tokens
    stream = model.stream("a", max_new_tokens=5)
    assert [next(stream.steps()).token, next(stream.steps()).token] == expected[:2]
    stream.close()
    assert list(stream.steps()) == [] and list(stream) == []
    assert stream.result.tokens == expected[:2] and stream.result.finish_reason == "cancelled"
    assert len(model.runtime.calls) == 5 + 2, "no forward call after close"
    assert model.generate("a", max_new_tokens=5).tokens == expected


def test_steps_closed_early_with_a_draft_keep_statistics():
    model, draft = seeded(), seeded()
    expected = seeded().generate("once").tokens
    stream = model.stream("once", draft=draft, draft_tokens=4)
    for _, _step in zip(range(7), stream.steps(), strict=False):
        pass
    stream.close()
    assert stream.result.tokens[:7] == expected[:7] and stream.result.draft.seconds == stream.result.timings.decode > 0
    assert model.generate("once", draft=draft).tokens == expected


def test_stream_cancelled_within_a_long_prompt_reads_no_further(bundled, monkeypatch):
    """A stream that can be cancelled reads its prompt in parts, and makes the text of one that cannot."""
    monkeypatch.setattr("edgekit.inference.generate.PART", 100)
    model = edgekit.load(bundled, runtime="native")
    prompt, way = [1 + n % 90 for n in range(400)], {"max_new_tokens": 20, "ignore_eos": True, "seed": 3}
    expected = model.generate(prompt, **way).tokens
    asked = []
    assert model.stream(prompt, cancelled=lambda: bool(asked.append(1)), **way).drain().tokens == expected
    stream = model.stream(prompt, cancelled=lambda: True, **way)
    assert stream.drain().tokens == [] and stream.result.finish_reason == "cancelled" and model.runtime.length == 0
    steps = iter([False])
    stream = model.stream(prompt, cancelled=lambda: next(steps, True), **way)
    assert stream.drain().tokens == [] and model.runtime.length == 100
    assert model.generate(prompt, **way).tokens == expected, "the cache was not taken for the whole prompt"


def test_steps_cancelled_put_the_rest_into_the_result(model):
    stream = model.stream("a", stop="cde")
    texts = []
    for step in stream.steps():
        texts.append(step.text)
        if step.token == ord("d"):
            stream.cancel()
    assert texts == ["b", "", ""] and stream.result.text == "bcd" and stream.result.finish_reason == "cancelled"
    stream = model.stream("a", stop="cde")
    pieces = []
    for piece in stream:
        pieces.append(piece)
        stream.cancel()
    assert pieces == ["b"] and stream.result.text == "b"


def test_steps_interrupted_in_forward_end_the_stream(model):
    stream = model.stream("a")
    steps = stream.steps()
    next(steps)

    def interrupted(tokens, *, every=False):
        raise KeyboardInterrupt

    forward, model.runtime.forward = model.runtime.forward, interrupted
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    stream.close()
    assert stream.result.text == "b" and stream.result.finish_reason == "cancelled"
    model.runtime.forward = forward
    assert model.generate("a", max_new_tokens=2).text == "bc"


def test_steps_forward_seconds_are_positive_and_below_the_whole(model):
    stream = model.stream("a", max_new_tokens=5)
    seconds = [step.forward_seconds for step in stream.steps()]
    assert min(seconds) > 0 and sum(seconds[1:]) <= stream.result.timings.decode
    assert seconds[0] == stream.result.timings.prefill
