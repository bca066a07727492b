"""The loop's own rules, on a runtime small enough to predict: it counts, and its tokenizer spells."""

import codecs
import threading

import numpy as np
import pytest

from edgekit.errors import ContextError, PromptError, SettingError
from edgekit.inference.generate import StopText, fit, token_logprob
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.model import Model
from edgekit.settings import Generating


class Counting:
    """After token t the likeliest is t + 1, by a wide margin; byte 0 is the end of a text."""

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
    """One id a byte."""

    vocab_size, bos, stop = 256, None, frozenset({0})

    def encode(self, text):
        return list(text.encode())

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


def test_streams_and_stops_at_max_new_tokens(model):
    stream = model.stream("a", max_new_tokens=4)
    assert list(stream) == ["b", "c", "d", "e"]
    result = stream.result
    assert (result.text, result.tokens, result.finish_reason) == ("bcde", [98, 99, 100, 101], "length")
    assert result.prompt == [97] and result.timings.new_tokens == 4 and result.timings.prompt_tokens == 1
    assert model.runtime.calls == [[97], [98], [99], [100]], "no forward after the last token"


def test_ends_at_the_end_of_text(model):
    result = model.generate([253], max_new_tokens=10)
    assert result.tokens == [254, 255, 0] and result.finish_reason == "stop"
    assert result.text == "\ufffd\ufffd"


def test_ignore_eos_goes_on(model):
    assert model.generate([254], max_new_tokens=4, ignore_eos=True).tokens == [255, 0, 1, 2]


@pytest.mark.parametrize(
    "stop, text", [("d", "bc"), ("de", "bc"), ("ef", "bcd"), ("gx", "bcdefghi"), (["zz", "ghi"], "bcdef")]
)
def test_stop_strings_across_token_borders(model, stop, text):
    stream = model.stream("a", max_new_tokens=8, stop=stop)
    assert "".join(stream) == stream.result.text == text
    assert stream.result.finish_reason == ("length" if text == "bcdefghi" else "stop")


def test_a_piece_that_may_begin_a_stop_string_waits():
    text = StopText(["<end>", "<e"])
    assert [text.add(p) for p in ("a<", "b<", "x<", "en")] == ["a", "<b", "<x", ""]
    assert text.found
    text = StopText(["<end>"])
    assert [text.add(p) for p in ("1<", "en", "d", "!")] == ["1", "", "", "<end!"]
    text = StopText(["<end>"])
    assert text.add("1<en") == "1" and text.flush() == "<en"


def test_context_limit(model):
    result = model.generate([1] * 60, max_new_tokens=100)
    assert result.finish_reason == "length" and len(result.tokens) == 5  # the 65th needs no place in the cache
    with pytest.raises(ContextError, match="65 tokens.* 64"):
        model.generate([1] * 65)
    assert len(model.generate([1] * 64).tokens) == 1


def test_truncate_left_keeps_bos_and_the_end():
    settings = Generating(truncate="left", max_new_tokens=4)
    assert fit([9, 1, 2, 3, 4, 5, 6, 7, 8, 8, 7], 10, settings, bos=9) == [9, 4, 5, 6, 7, 8, 8, 7][0:1] + [
        6,
        7,
        8,
        8,
        7,
    ]
    assert fit(list(range(30)), 10, settings, bos=None) == list(range(24, 30))
    assert fit(list(range(30)), 10, Generating(truncate="left", max_new_tokens=99), None) == list(range(25, 30))


def test_cancel_by_closing_by_callback_and_from_a_thread(model):
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


def test_half_a_character_waits_and_is_flushed(model):
    stream = model.stream([0xC2], max_new_tokens=3)  # lead bytes C3 C4 C5, none with what it needs
    # C2 of the prompt shows once C3 has broken it, and so on; C5 is still waiting when the text ends.
    assert list(stream) == ["\ufffd", "\ufffd", "\ufffd\ufffd"]


def test_logprobs(model):
    result = model.generate("a", max_new_tokens=2, logprobs=3)
    first = result.logprobs[0]
    assert first.token == 98 and first.top[0] == (98, first.logprob) and [i for i, _ in first.top] == [98, 0, 1]
    assert first.logprob == pytest.approx(20 - np.log(np.exp(20) + 255))
    assert token_logprob(np.zeros(4, np.float32), 2, 0).logprob == pytest.approx(-np.log(4))
    assert model.generate("a", max_new_tokens=1).logprobs is None


def test_bad_prompts_and_settings(model):
    with pytest.raises(PromptError, match="empty"):
        model.generate("")
    with pytest.raises(PromptError, match="empty"):
        model.generate([])
    with pytest.raises(PromptError, match="not UTF-8"):
        model.generate("a\udc80")
    with pytest.raises(SettingError, match="unknown setting 'temprature'"):
        model.generate("a", temprature=1)
    with pytest.raises(SettingError, match="temperature"):
        model.generate("a", temperature=-1)


def test_defaults_hold_where_a_call_says_nothing():
    model = Model(Counting(), Bytes(), Generating(max_new_tokens=2))
    assert model.generate("a").text == "bc"
    assert model.generate("a", max_new_tokens=1).text == "b"


def test_a_second_text_starts_anew(model):
    first = model.generate("hello", max_new_tokens=3).tokens
    model.generate("other", max_new_tokens=9)
    assert model.generate("hello", max_new_tokens=3).tokens == first
