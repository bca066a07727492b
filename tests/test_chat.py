"""`Model.chat`: prompts, ends, the reuse of what the cache holds, conversations that outgrow the context."""

import json

import numpy as np
import pytest
from helpers import write_model
from test_chat_template import CHATML, LLAMA2, files_with

from edgekit.errors import ContextError, PromptError, VocabularyError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference.chat import LOW, first_turn, fit_conversation, split_turns
from edgekit.model import Model, load
from edgekit.settings import Generating
from edgekit.tokenizers.load import from_files

TINY = LlamaConfig(
    vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=256, tie_word_embeddings=True,
    eos_token_id=(258,),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("chat") / "tiny", TINY, files=files_with(CHATML), std=0.3)


def spied(model: Model) -> list[int]:
    """The number of tokens in each forward call from now on."""
    counts, forward = [], model.runtime.forward

    def counting(tokens, *, every=False):
        counts.append(len(tokens))
        return forward(tokens, every=every)

    model.runtime.forward = counting
    return counts


RUNTIMES = {"torch": {}, "onnx": {}, "llamacpp": {"kv_type": "f32"}}


def opened(folder, runtime):
    pytest.importorskip({"torch": "torch", "onnx": "onnxruntime", "llamacpp": "llama_cpp"}[runtime])
    return load(folder, runtime=runtime, threads=1, **RUNTIMES[runtime])


def talk(model: Model, turns: int, fresh: bool = False, **settings) -> tuple[list, list[int]]:
    """A conversation's results, and how many tokens the prefill of each turn read."""
    counts, messages, results, read = spied(model), [], [], []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"turn {turn}?"})
        if fresh:
            model.cache.clear()
        del counts[:]
        results.append(model.chat(messages, **settings).drain())
        read.append(counts[0])
        messages.append({"role": "assistant", "content": results[-1].text})
    return results, read


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_chat_reuse_reads_only_what_is_new_and_changes_no_token(folder, runtime):
    model = opened(folder, runtime)
    reused, read = talk(model, 4, max_new_tokens=12, ban_replacement=True)
    whole, everything = talk(model, 4, fresh=True, max_new_tokens=12, ban_replacement=True)
    assert [r.tokens for r in reused] == [r.tokens for r in whole]
    assert [r.prompt for r in reused] == [r.prompt for r in whole]
    assert everything == [len(r.prompt) for r in whole] and read[0] == everything[0]
    for result, count in zip(reused, read, strict=True):
        assert count == len(result.prompt) - result.timings.reused_tokens
    for before, result in zip(reused, reused[1:], strict=False):
        # All of the previous prompt; of its answer what the template repeats.
        assert result.timings.reused_tokens >= len(before.prompt)
    assert all(r.timings.reused_tokens == 0 for r in whole)


def test_stream_reads_its_whole_prompt_and_chat_after_it_too(folder):
    model = opened(folder, "torch")
    counts = spied(model)
    prompt = model.chat("hello", max_new_tokens=3).drain().prompt
    assert counts[0] == len(prompt)
    model.stream(prompt, max_new_tokens=3).drain()
    assert counts[-3] == len(prompt), "no reuse unless it is a chat"
    assert model.chat("hello", max_new_tokens=3).drain().timings.reused_tokens == len(prompt) - 1
    model.stream("something else", max_new_tokens=3).drain()
    assert model.chat("hello", max_new_tokens=3).drain().timings.reused_tokens == 0


def test_chat_notices_that_something_else_used_the_runtime(folder):
    model = opened(folder, "torch")
    first = model.chat("hello", max_new_tokens=5).drain()
    model.runtime.rewind(0)
    model.runtime.forward([1, 2, 3])
    again = model.chat("hello", max_new_tokens=5).drain()
    assert again.timings.reused_tokens == 0 and again.tokens == first.tokens


@pytest.mark.parametrize("end", ["cancel", "close", "abandon"])
@pytest.mark.parametrize("draft", [None, "ngram"])
def test_chat_after_an_answer_that_was_interrupted_is_the_same(folder, end, draft):
    model, settings = opened(folder, "torch"), {"max_new_tokens": 24, "ban_replacement": True}
    expected = model.chat("aaaa bbbb aaaa bbbb", **settings).drain().tokens
    for count in (1, 5, 11):
        stream = model.chat("aaaa bbbb aaaa bbbb", draft=draft, **settings)
        for _ in zip(range(count), stream.steps(), strict=False):
            pass
        if end == "cancel":
            stream.cancel()
            stream.drain()
        elif end == "close":
            stream.close()
        assert model.chat("aaaa bbbb aaaa bbbb", **settings).drain().tokens == expected


class Scripted:
    """A runtime whose likeliest next token follows a script."""

    files = {}

    def __init__(self, script, size=320, context_length=256):
        self.script, self.vocab_size, self.context_length, self.length = list(script), size, context_length, 0

    def forward(self, tokens, *, every=False):
        self.length += len(tokens)
        logits = np.zeros(self.vocab_size, np.float32)
        logits[self.script.pop(0)] = 9
        return logits

    def rewind(self, length):
        self.length = length

    def close(self):
        pass


@pytest.mark.parametrize("mark", ["<|im_end|>", "</s>"])
def test_chat_ends_at_the_turns_end_or_eos_and_prints_neither(mark):
    files = files_with(CHATML)
    tokenizer = from_files(files, 320)
    end = tokenizer.encode(mark, specials=True)
    runtime = Scripted([*tokenizer.encode("Paris"), *end, *tokenizer.encode("more")])
    runtime.files = files
    model = Model(runtime, tokenizer)
    stream = model.chat("What is the capital of France?")
    assert "".join(stream) == "Paris"
    assert stream.result.finish_reason == "stop" and stream.result.tokens[-1:] == end
    assert tokenizer.encode("<|im_end|>", specials=True)[0] not in tokenizer.stop, "the template's, not the model's"


def test_chat_prompt_has_special_ids_and_no_second_bos(folder):
    model = opened(folder, "torch")
    model.tokenizer.bos = 257
    ids = model.chat([{"role": "user", "content": "a"}], max_new_tokens=1).result.prompt
    start = model.tokenizer.encode("<|im_start|>", specials=True)
    assert ids[0] == start[0] and ids.count(start[0]) == 2 and 257 not in ids


def test_fit_conversation_drops_the_oldest_turns_and_keeps_the_system():
    files = files_with(CHATML)
    tokenizer = from_files(files, 320)
    from edgekit.tokenizers import chat

    template = chat.from_files(files)
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"message {i} " + "x" * 20} for i in range(9)]
    messages = [{"role": "system", "content": "short"}, *turns]
    whole = template.encode(messages, tokenizer)
    settings = Generating(max_new_tokens=50)
    assert fit_conversation(template, tokenizer, messages, len(whole) + 50, settings) == (whole, 0)
    ids, dropped = fit_conversation(template, tokenizer, messages, len(whole) + 49, settings)
    assert dropped == 4 and ids == template.encode([messages[0], *turns[4:]], tokenizer)
    assert len(ids) <= LOW * len(whole) < len(template.encode([messages[0], *turns[2:]], tokenizer))
    ids, dropped = fit_conversation(template, tokenizer, messages, 60, Generating())
    assert dropped == 8 and ids == template.encode([messages[0], turns[8]], tokenizer)
    ids, dropped = fit_conversation(template, tokenizer, turns, len(whole), Generating(max_new_tokens=1000))
    assert dropped and len(ids) <= len(whole) // 2, "half of the context is for the answer at most"


def test_first_turn_moves_rarely_as_a_conversation_grows():
    sizes = [7, 12, 9, 10, 8, 11, 10, 9, 12, 10, 8, 10, 9, 11, 10, 10]
    firsts = [first_turn(sizes[: n + 1], 50) for n in range(len(sizes))]
    assert firsts == sorted(firsts) and 1 < len(set(firsts)) <= len(sizes) // 2
    for n, first in enumerate(firsts):
        assert sum(sizes[first : n + 1]) <= 50 and (first == 0 or sum(sizes[first - 1 : n + 1]) > LOW * 50)
    assert first_turn([5, 100], 50) == 1 and first_turn([100], 50) == 0, "the last turn stays"


def test_split_turns_begin_at_the_user():
    roles = ["assistant", "user", "assistant", "tool", "user"]
    turns = split_turns([{"role": role} for role in roles])
    assert [[m["role"] for m in turn] for turn in turns] == [roles[:1], roles[1:4], roles[4:]]


def test_chat_full_context_still_reuses_most_of_it(folder):
    model = opened(folder, "torch")
    results, read = talk(model, 24, max_new_tokens=4, ban_replacement=True)
    assert results[-1].dropped_messages > 20
    assert sum(read) < 0.6 * sum(len(result.prompt) for result in results)


def test_chat_long_conversation_reports_what_it_left_out(folder):
    model = opened(folder, "torch")
    turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 8} for i in range(7)]
    result = model.chat(turns, max_new_tokens=8).drain()
    assert result.dropped_messages == 4 and len(result.prompt) <= 248
    assert model.chat("short", max_new_tokens=8).drain().dropped_messages == 0
    with pytest.raises(ContextError, match="context holds 256"):
        model.chat("x" * 500)
    assert model.chat("x" * 500, truncate="left", max_new_tokens=2).drain().tokens


def test_chat_without_a_template_says_so(tmp_path):
    folder = write_model(tmp_path / "plain", TINY, files=files_with(None))
    model = opened(folder, "torch")
    assert model.chat_template is None
    with pytest.raises(VocabularyError, match="has no chat template"):
        model.chat("hello")


def test_chat_template_errors_are_edgekits(tmp_path):
    folder = write_model(tmp_path / "strict", TINY, files=files_with(LLAMA2))
    model = opened(folder, "torch")
    with pytest.raises(PromptError, match="must alternate"):
        model.chat([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    with pytest.raises(PromptError, match="at least one message"):
        model.chat([])


def test_chat_foreign_gguf_uses_the_template_inside(tmp_path, folder):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from helpers import rewritten

    from edgekit.conversion.convert import convert

    ours = tmp_path / "ours.gguf"
    convert(folder, "gguf", ours)
    config = json.loads(files_with(CHATML)["tokenizer_config.json"])
    assert load(ours).chat_template.source == config["chat_template"]
    foreign = rewritten(ours, tmp_path / "foreign.gguf", tokenizer__chat_template=CHATML + "{{ eos_token }}")
    model = load(foreign)
    assert not model.runtime.files and model.chat_template.source == CHATML + "{{ eos_token }}"
    assert model.chat_template.render([{"role": "user", "content": "a"}]).endswith("assistant\n</s>")
