"""The server's two APIs against `generate`: the same tokens, texts and probabilities; and invalid requests."""

import dataclasses
import json
import math
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from serving import PROMPT, complete, events, generate, served

import edgekit
from edgekit.errors import SettingError
from edgekit.inference.sampling import Sampler, log_softmax
from edgekit.settings import Generating
from edgekit.web import chat, completions, playground
from edgekit.web.models import ModelPool
from edgekit.web.validation import SETTINGS, RequestError


@pytest.fixture(scope="module")
def model():
    """The bundled model, which the server's answers are compared with."""
    return edgekit.load(runtime="onnx")


@pytest.fixture(scope="module")
def pool():
    return ModelPool([None], runtime="onnx")


@pytest.fixture(scope="module")
def client(pool):
    with served(pool) as client:
        yield client


# ----------------------------------------------------------------------------- the playground's API

WAYS = [
    {"temperature": 0, "repetition_penalty": 1},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.2, "seed": 3},
    {"temperature": 1.5, "top_p": 1, "repetition_penalty": 1, "seed": 8, "ignore_eos": True},
    {"seed": 11, "stop": [" girl", "\n\n"]},
    {"seed": 12, "stop": ". She"},
]


@pytest.mark.parametrize("settings", WAYS)
def test_playground_text_equals_generate(client, model, settings):
    settings = settings | {"max_new_tokens": 24}
    expected = model.generate(PROMPT, logprobs=4, **settings)
    start, *tokens, end = generate(client, prompt=PROMPT, settings=settings, top=4)
    assert start["type"] == "start" and start["tokens"] == expected.prompt and "".join(start["pieces"]) == PROMPT
    assert end["type"] == "end" and end["tokens"] == expected.tokens and end["text"] == expected.text
    assert end["finish_reason"] == expected.finish_reason and end["first_token_seconds"] > 0
    assert (end["tokens_per_second"] > 0) == (len(expected.tokens) > 1)
    assert [token["id"] for token in tokens] == expected.tokens
    assert "".join(token["text"] for token in tokens) == expected.text
    for token, logprob in zip(tokens, expected.logprobs, strict=True):
        assert token["before"] == pytest.approx(math.exp(logprob.logprob), abs=1e-12)
        assert [(t["id"], t["before"]) for t in token["top"]] == [
            (id, pytest.approx(math.exp(p), abs=1e-12)) for id, p in logprob.top
        ]


@pytest.mark.parametrize("settings", WAYS[:4])
def test_playground_after_is_the_samplers_distribution(client, model, settings):
    """Each step's distribution computed again: a sampler that has seen all tokens before it, and fresh logits."""
    settings = settings | {"max_new_tokens": 10}
    start, *tokens, end = generate(client, prompt=PROMPT, settings=settings, top=20)
    chosen = [token["id"] for token in tokens]
    model.runtime.rewind(0)
    logits = model.runtime.forward(start["tokens"])
    for place, token in enumerate(tokens):
        seen = [*start["tokens"], *chosen[:place]]
        sampler = Sampler(dataclasses.replace(model.defaults, **settings), model.runtime.vocab_size, seen)
        ids, probabilities = sampler.distribution(logits)
        after = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
        for entry in (token, *token["top"]):
            assert entry["after"] == pytest.approx(after.get(entry["id"], 0.0), abs=1e-12)
        assert token["after"] > 0, "a drawn token has a probability"
        if settings["temperature"] == 0:
            assert token["after"] == 1
        logits = model.runtime.forward([token["id"]])


def test_playground_token_prompt_continues_from_its_ids(client, model):
    start, *tokens, _ = generate(client, prompt=PROMPT, settings={"seed": 1, "max_new_tokens": 6}, top=5)
    other = next(entry["id"] for entry in tokens[3]["top"] if entry["id"] != tokens[3]["id"])
    prefix = [*start["tokens"], *[token["id"] for token in tokens[:3]], other]
    expected = model.generate(prefix, seed=1, max_new_tokens=6)
    again, *_, end = generate(client, tokens=prefix, settings={"seed": 1, "max_new_tokens": 6})
    assert again["tokens"] == prefix and end["tokens"] == expected.tokens and end["text"] == expected.text
    assert "".join(again["pieces"]) == model.tokenizer.decode(prefix)


def test_playground_without_seed_reports_the_drawn_one(client):
    first = generate(client, prompt=PROMPT, settings={"max_new_tokens": 12})
    again = generate(client, prompt=PROMPT, settings={"max_new_tokens": 12, "seed": first[0]["seed"]})
    assert [e for e in again if e["type"] == "token"] == [e for e in first if e["type"] == "token"]
    seeds = {generate(client, prompt=PROMPT, settings={"max_new_tokens": 1})[0]["seed"] for _ in range(4)}
    assert len(seeds) > 1


def test_pieces_are_the_text_of_single_tokens(model):
    pieces, tokenizer = model.tokenizer.piece, model.tokenizer
    assert pieces(tokenizer.eos) == "</s>" and pieces(tokenizer.bos_id) == "<s>", "specials by their spelling"
    ids = tokenizer.encode("the little girl said: 12 cats, and a dog.")
    assert "".join(map(pieces, ids)).strip() == "the little girl said: 12 cats, and a dog."
    halves = tokenizer.encode("\u4e2d")[-3:]
    assert pieces(halves[-1]) == "\ufffd", "part of a character"


def test_playground_lists_models_and_defaults(client, model, bundled):
    (response,) = client.get("/api/models").json()["models"]
    size = (bundled / "model.safetensors").stat().st_size
    assert response == {
        "id": "story-7m", "name": "story-7m", "runtime": "onnx", "runtimes": response["runtimes"],
        "format": "Hugging Face folder", "bytes": size, "parameters": 7_179_520, "context_length": 512,
        "vocab_size": 8064, "chat": True,
    }  # fmt: skip
    assert "onnx" in response["runtimes"] and len(set(response["runtimes"])) == len(response["runtimes"])
    response = client.get("/api/defaults", params={"model": "story-7m"}).json()
    assert list(response["defaults"]) == list(response["settings"]) == list(SETTINGS)
    assert Generating(**{k: tuple(v) if k == "stop" else v for k, v in response["defaults"].items()}) == model.defaults
    for name, about in response["settings"].items():
        if about["type"] in ("number", "whole"):
            good = about["minimum"] + (0.5 if about["above"] else 0)
            Generating(**{name: good})
            with pytest.raises(SettingError):
                Generating(**{name: about["minimum"] - (0 if about["above"] else 1)})
            if about["maximum"] is not None:
                Generating(**{name: about["maximum"]})
                with pytest.raises(SettingError):
                    Generating(**{name: about["maximum"] + 0.1})
    assert client.get("/api/defaults?model=none").status_code == 404


@pytest.mark.parametrize("body, status, param, message", [
    (b"[1]", 400, None, "JSON object"),
    (b"{", 400, None, "not JSON"),
    (b"[" * 100_000, 400, None, "not JSON"),
    ({}, 400, "prompt", "prompt or tokens"),
    ({"prompt": "a", "tokens": [1]}, 400, "prompt", "either prompt"),
    ({"prompt": "\ud800"}, 400, "prompt", "not UTF-8"),
    ({"prompt": 5}, 400, "prompt", "a string"),
    ({"tokens": []}, 400, "tokens", "token ids"),
    ({"tokens": [True]}, 400, "tokens", "token ids"),
    ({"tokens": [8064]}, 400, "tokens", "0 to 8063"),
    ({"tokens": [-1]}, 400, "tokens", "0 to 8063"),
    ({"tokens": [10**30]}, 400, "tokens", "0 to 8063"),
    ({"tokens": [5] * 513}, 400, "prompt", "holds 512"),
    ({"prompt": "a", "top": 21}, 400, "top", "from 0 to 20"),
    ({"prompt": "a", "model": "none"}, 404, "model", "story-7m"),
    ({"prompt": "a", "runtime": "none"}, 400, "runtime", "onnx"),
    ({"prompt": "a", "more": 1}, 400, "more", "unknown"),
    ({"prompt": "a", "\ud800": 1}, 400, "\ud800", "unknown"),
    ({"prompt": "a", "special": 1}, 400, "special", "true or false"),
    ({"prompt": "a", "settings": {"more": 1}}, 400, "settings", "unknown"),
    ({"prompt": "a", "settings": {"banned": [1]}}, 400, "settings", "unknown"),
    ({"prompt": "a", "settings": {"top_p": -1}}, 400, "top_p", "from 0 to 1"),
    ({"prompt": "a", "settings": {"temperature": "hot"}}, 400, "temperature", "at least 0"),
    ({"prompt": "a", "settings": {"temperature": 10**400}}, 400, "temperature", "at least 0"),
    (b'{"prompt": "a", "settings": {"temperature": NaN}}', 400, "temperature", "at least 0"),
    ({"prompt": "a", "settings": {"temperature": 1e-300}}, 400, None, "too small"),
    ({"prompt": "a", "settings": {"seed": 1.5}}, 400, "seed", "whole"),
    ({"prompt": "a", "settings": {"max_new_tokens": True}}, 400, "max_new_tokens", "whole"),
    ({"prompt": "a", "settings": {"ignore_eos": 1}}, 400, "ignore_eos", "true or false"),
    ({"prompt": "a", "settings": {"stop": [""]}}, 400, "stop", "none empty"),
    ({"prompt": "a", "settings": {"stop": {"a": 1}}}, 400, "stop", "none empty"),
    ({"prompt": "a", "settings": {"stop": ["a"] * 17}}, 400, "stop", "at most 16"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_playground_invalid_body_names_the_field(client, body, status, param, message):
    if isinstance(body, bytes):
        answer = client.post("/api/generate", content=body)
    else:
        answer = client.post("/api/generate", content=json.dumps(body))
    error = answer.json()
    assert (answer.status_code, error["type"], error["param"]) == (status, "error", param), error
    assert message in error["message"] and "\n" not in error["message"]


# ----------------------------------------------------------------------------- OpenAI's API


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("settings", WAYS)
def test_completions_text_equals_generate(client, model, settings, stream):
    expected = model.generate(PROMPT, max_new_tokens=24, **settings)
    body = {"model": "story-7m", "prompt": PROMPT, "max_tokens": 24, **settings}
    usage = {"prompt_tokens": len(expected.prompt), "completion_tokens": len(expected.tokens)}
    usage["total_tokens"] = sum(usage.values())
    if not stream:
        response = complete(client, **body)
        choice = response["choices"][0]
        assert (
            response["object"] == "text_completion" and response["model"] == "story-7m" and response["usage"] == usage
        )
        assert choice == {
            "text": expected.text, "index": 0, "logprobs": None, "finish_reason": expected.finish_reason
        }  # fmt: skip
        return
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = events(client.post("/v1/completions", json=body))
    assert done == "[DONE]" and last["choices"] == [] and last["usage"] == usage
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected.text and len(chunks) > 3
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == expected.finish_reason
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


def test_completions_absent_fields_take_the_models_defaults(client, model):
    expected = model.generate(PROMPT, max_new_tokens=16, seed=5)
    assert model.defaults.temperature > 0 and len(expected.tokens) == 16
    absent = complete(client, prompt=PROMPT, seed=5)
    null = complete(client, prompt=[PROMPT], seed=5, temperature=None, top_p=None, max_tokens=None, logprobs=None,
                    stop=None, echo=None, stream=None, n=1, user="me", suffix=None, presence_penalty=0)  # fmt: skip
    assert absent["choices"] == null["choices"] and absent["choices"][0]["text"] == expected.text


def test_completions_accept_prompts_of_ids(client, model):
    ids = model.encode("The cat")
    expected = model.generate(ids, max_new_tokens=8, temperature=0)
    for prompt in (ids, [ids], "The cat", ["The cat"]):
        assert complete(client, prompt=prompt, max_tokens=8, temperature=0)["choices"][0]["text"] == expected.text


def together(chunks):
    """The chunks of a stream, joined into one choice."""
    choices = [chunk["choices"][0] for chunk in chunks]
    logprobs = {key: [x for c in choices for x in c["logprobs"][key]] for key in choices[0]["logprobs"]}
    text = "".join(c["text"] for c in choices)
    return {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": choices[-1]["finish_reason"]}


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("stop", [None, [" She", "."]])
def test_completions_logprobs_equal_generate(client, model, echo, stop):
    settings = {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 4, "stop": stop or []}
    expected = model.generate(PROMPT, max_new_tokens=20, logprobs=3, **settings)
    body = {"prompt": PROMPT, "max_tokens": 20, "logprobs": 3, "echo": echo, **settings}
    choice = complete(client, **body)["choices"][0]
    logged, pieces = choice["logprobs"], model.tokenizer.piece
    assert choice["text"] == (PROMPT if echo else "") + expected.text
    skip = len(expected.prompt) if echo else 0
    assert len(logged["tokens"]) - skip == len(expected.tokens), "those that the stop string cut off, too"
    assert expected.finish_reason == "stop" if stop else len(expected.tokens) == 20
    full = PROMPT + expected.text
    for place, token in enumerate(expected.logprobs[: len(logged["tokens"]) - skip], skip):
        assert logged["token_logprobs"][place] == pytest.approx(token.logprob, abs=1e-12)
        tops = {pieces(id): pytest.approx(p, abs=1e-12) for id, p in reversed([*token.top])}
        assert logged["top_logprobs"][place] == {pieces(token.token): pytest.approx(token.logprob)} | tops
        assert logged["tokens"][place] == pieces(token.token)
        at, piece = logged["text_offset"][place], logged["tokens"][place]
        # After TokenMonster's delete marker a token's space is gone from the text; a stop string may cut the last.
        assert full[at:].startswith((piece, piece.removeprefix(" "))) or full[at:] in piece
    streamed = events(client.post("/v1/completions", json=body | {"stream": True}))
    assert together(streamed[:-1]) == choice


def test_completions_echo_without_new_tokens_scores_the_prompt(client, model):
    """As evaluation harnesses do: echo and logprobs, no new tokens. Compared with one forward pass over the prompt."""
    text = "Once upon a time there was a little girl. She had a cat."
    ids = model.encode(text)
    model.runtime.rewind(0)
    logprobs = log_softmax(model.runtime.forward(ids, every=True))
    response = complete(client, prompt=text, max_tokens=0, echo=True, logprobs=1)
    choice = response["choices"][0]
    assert choice["text"] == text and choice["finish_reason"] == "length"
    assert response["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
    logged = choice["logprobs"]
    assert (
        logged["token_logprobs"][0] is None and logged["top_logprobs"][0] is None and len(logged["tokens"]) == len(ids)
    )
    true = [logprobs[place, id] for place, id in enumerate(ids[1:])]
    assert logged["token_logprobs"][1:] == pytest.approx(true, abs=1e-3)
    pairs = zip(logged["top_logprobs"], logged["tokens"], strict=True)
    greedy = [max(top, key=top.get) == token for top, token in pairs if top]
    assert greedy == [int(np.argmax(row)) == id for row, id in zip(logprobs, ids[1:], strict=False)]
    offsets = logged["text_offset"]
    assert offsets == sorted(offsets) and offsets[0] == 0
    assert complete(client, prompt=text, max_tokens=0, echo=False)["choices"][0]["text"] == ""


def together_by_index(chunks):
    """The chunks of a stream, joined into one text for each choice."""
    choices = [chunk["choices"][0] for chunk in chunks]
    texts = {}
    for choice in choices:
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts, {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]}


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.2, "seed": 2**63}])
def test_completions_several_prompts_and_choices_equal_one_by_one(client, model, settings):
    """Choices are in the order of the prompts; those of one prompt have the seeds from the given one up."""
    prompts = ["The cat", model.encode("One day, Tim"), "", "Lily"]
    body = {"prompt": prompts, "n": 2, "best_of": 2, "max_tokens": 8, **settings}
    seeds = [settings.get("seed"), 0 if "seed" in settings else None]  # 2^63 is the last: it starts over
    expected = [
        model.generate(prompt, max_new_tokens=8, **settings | {"seed": seed}) for prompt in prompts for seed in seeds
    ]
    response = complete(client, **body)
    assert [choice["index"] for choice in response["choices"]] == list(range(8))
    assert [choice["text"] for choice in response["choices"]] == [each.text for each in expected]
    assert [choice["finish_reason"] for choice in response["choices"]] == [each.finish_reason for each in expected]
    usage = response["usage"]
    assert usage["prompt_tokens"] == sum(len(each.prompt) for each in expected[::2])
    assert usage["completion_tokens"] == sum(len(each.tokens) for each in expected)
    streamed = client.post("/v1/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}})
    *chunks, last, done = events(streamed)
    texts, reasons = together_by_index(chunks)
    assert texts == {index: each.text for index, each in enumerate(expected)}
    assert reasons == {index: each.finish_reason for index, each in enumerate(expected)}
    assert last["usage"] == usage and last["choices"] == [] and done == "[DONE]"


def test_completions_several_choices_with_echo_and_logprobs_have_their_own_entries(client, model):
    body = {"max_tokens": 6, "temperature": 0.9, "seed": 5, "echo": True, "logprobs": 2}
    response = complete(client, prompt=["The cat", "Lily"], n=2, **body)
    alone = [
        complete(client, prompt=prompt, **body | {"seed": seed})["choices"][0]
        for prompt in ("The cat", "Lily")
        for seed in (5, 6)
    ]
    assert response["choices"] == [choice | {"index": index} for index, choice in enumerate(alone)]


@pytest.mark.parametrize("stream", [False, True])
def test_completions_logprobs_have_an_entry_for_each_counted_token(client, model, stream):
    """EOS included: lm-evaluation-harness takes all but the last entry for the prompt's."""
    eos = min(model.tokenizer.stop)
    body = {"prompt": PROMPT, "max_tokens": 5, "logprobs": 1, "temperature": 0, "logit_bias": {str(eos): 100}}
    for echo in (False, True):
        if stream:
            chunks = events(client.post("/v1/completions", json=body | {"echo": echo, "stream": True}))
            choice = together(chunks[:-1])
        else:
            response = complete(client, **body, echo=echo)
            choice = response["choices"][0]
            assert response["usage"]["completion_tokens"] == 1
        prompt = model.encode(PROMPT) if echo else []
        logged = choice["logprobs"]
        assert choice["text"] == (PROMPT if echo else "") and choice["finish_reason"] == "stop"
        assert len(logged["tokens"]) == len(logged["token_logprobs"]) == len(prompt) + 1
        assert logged["tokens"][-1] == model.tokenizer.piece(eos) and logged["text_offset"][-1] == len(PROMPT)


def test_completions_without_prompt_begin_at_bos(client, model):
    expected = model.generate("", max_new_tokens=6, temperature=0)
    for body in ({}, {"prompt": None}, {"prompt": ""}, {"prompt": [""]}):
        response = complete(client, max_tokens=6, temperature=0, logprobs=0, echo=True, **body)
        assert response["choices"][0]["text"] == expected.text
        assert response["usage"]["prompt_tokens"] == 1 and len(response["choices"][0]["logprobs"]["tokens"]) == 7


def test_completions_penalties_equal_generate(client, model):
    penalties = {"presence_penalty": 0.7, "frequency_penalty": 1.1}
    settings = {"temperature": 0, "repetition_penalty": 1, "ignore_eos": True}
    expected = model.generate(PROMPT, max_new_tokens=40, **settings, **penalties)
    assert (
        complete(client, prompt=PROMPT, max_tokens=40, **settings, **penalties)["choices"][0]["text"] == expected.text
    )
    assert model.generate(PROMPT, max_new_tokens=40, **settings).text != expected.text


def test_completions_special_reads_marks_as_tokens(client, model):
    text = "</s>Once upon</s>"
    for special in (True, False):
        expected = model.generate(text, special=special, temperature=0, max_new_tokens=4)
        body = {"prompt": text, "temperature": 0, "max_tokens": 4, "special": special}
        answer = complete(client, **body)
        assert answer["usage"]["prompt_tokens"] == len(expected.prompt)
        assert answer["choices"][0]["text"] == expected.text
        settings = {"temperature": 0, "max_new_tokens": 4}
        start = generate(client, prompt=text, settings=settings, special=special)[0]
        assert start["tokens"] == expected.prompt
    assert [model.tokenizer.eos in model.encode(text, special=special) for special in (True, False)] == [True, False]


def test_completions_special_spelled_in_a_prompt_is_logged_once(caplog):
    with served(ModelPool([None], runtime="onnx")) as client:
        complete(client, prompt="a</s>", max_tokens=1, special=True)
        complete(client, prompt="a", max_tokens=1)
        assert not caplog.messages
        for _ in range(2):
            complete(client, prompt="a</s> and <s>", max_tokens=1)
    noted = "note: </s> in a prompt was read as text; the field special: true reads it as a token"
    assert caplog.messages == [noted]


def test_completions_runtime_is_chosen_by_the_field(client, model):
    pytest.importorskip("torch")
    expected = edgekit.load(runtime="torch").generate(PROMPT, temperature=0, max_new_tokens=8)
    answer = complete(client, prompt=PROMPT, temperature=0, max_tokens=8, runtime="torch")
    assert answer["choices"][0]["text"] == expected.text


@pytest.mark.parametrize("sent, meant", [
    ({"seed": -1}, {}), ({"top_k": -1}, {"top_k": 0}), ({"stop": ""}, {}), ({"stop": [""]}, {}),
    ({"stop": ["", "."]}, {"stop": ["."]}), ({"max_tokens": 8.0}, {}), ({"model": "gpt-3.5-turbo-instruct"}, {}),
    ({"top_p": 0}, {"temperature": 0}), ({"logprobs": 20}, {}),
])  # fmt: skip
def test_completions_clients_spellings_mean_what_clients_mean(client, model, sent, meant):
    settings = {"temperature": 0.8} if "top_p" in sent else {"temperature": 0}
    expected = model.generate(PROMPT, max_new_tokens=8, **settings | meant)
    response = complete(client, **{"prompt": PROMPT, "max_tokens": 8} | settings | sent)
    assert response["choices"][0]["text"] == expected.text and response["model"] == "story-7m"


def test_completions_max_tokens_minus_one_fills_the_context(client, model):
    prompt = [5] * 500
    expected = model.generate(prompt, max_new_tokens=1000, temperature=0, ignore_eos=True)
    response = complete(client, prompt=prompt, max_tokens=-1, temperature=0, ignore_eos=True)
    assert response["usage"]["completion_tokens"] == len(expected.tokens) == 13
    assert response["choices"][0]["finish_reason"] == "length"


def test_completions_stream_obfuscation_is_accepted(client):
    options = {"include_usage": True, "include_obfuscation": False}
    body = {"prompt": "a", "max_tokens": 1, "stream": True, "stream_options": options}
    assert events(client.post("/v1/completions", json=body))[-2]["usage"]["completion_tokens"] == 1


def test_completions_character_of_several_tokens_is_one_chunk(client, model):
    """Chunks end at the end of a character."""
    ids = model.encode("a \u4e2d")
    half = model.tokenizer.encode("\u4e2d")[-2:]
    bias = {str(half[0]): 100, str(half[1]): 99}
    body = {"prompt": ids[:-2], "max_tokens": 4, "temperature": 0, "repetition_penalty": 100, "logit_bias": bias,
            "logprobs": 0}  # fmt: skip
    whole = complete(client, **body)["choices"][0]
    expected = model.generate(
        ids[:-2], max_new_tokens=4, temperature=0, repetition_penalty=100.0, logit_bias={half[0]: 100.0, half[1]: 99.0}
    )
    assert whole["text"] == expected.text and len(whole["logprobs"]["tokens"]) == 4
    streamed = events(client.post("/v1/completions", json=body | {"stream": True}))
    assert together(streamed[:-1]) == whole


@pytest.mark.parametrize("body, status, param, message", [
    ({"prompt": ["a", 1]}, 400, "prompt", "token ids"),
    ({"prompt": ["a", [9000]]}, 400, "prompt", "0 to 8063"),
    ({"prompt": ["a"] * 65, "n": 16}, 400, "prompt", "more than 1024"),
    ({"prompt": []}, 400, "prompt", "token ids"),
    ({"prompt": [[]]}, 400, "prompt", "token ids"),
    ({"prompt": {"a": 1}}, 400, "prompt", "token ids"),
    ({"prompt": [9000]}, 400, "prompt", "0 to 8063"),
    ({"prompt": [5] * 513}, 400, "prompt", "holds 512"),
    ({"prompt": "a", "model": 4}, 400, "model", "a string"),
    ({"prompt": "a", "max_tokens": -2}, 400, "max_tokens", "from 0"),
    ({"prompt": "a", "max_tokens": "9"}, 400, "max_tokens", "whole"),
    ({"prompt": "a", "max_tokens": 4.5}, 400, "max_tokens", "whole"),
    ({"prompt": "a", "n": 0}, 400, "n", "from 1 to 128"),
    ({"prompt": "a", "n": True}, 400, "n", "from 1 to 128"),
    ({"prompt": "a", "best_of": 3}, 400, "best_of", "not supported"),
    ({"prompt": "a", "suffix": "z"}, 400, "suffix", "not supported"),
    ({"prompt": "a", "presence_penalty": 2.5}, 400, "presence_penalty", "from -2 to 2"),
    ({"prompt": "a", "frequency_penalty": -3}, 400, "frequency_penalty", "from -2 to 2"),
    ({"prompt": "a", "logprobs": 21}, 400, "logprobs", "from 0 to 20"),
    ({"prompt": "a", "logprobs": True}, 400, "logprobs", "from 0 to 20"),
    ({"prompt": "a", "temperature": -1}, 400, "temperature", "at least 0"),
    ({"prompt": "a", "top_p": 2}, 400, "top_p", "from 0 to 1"),
    ({"prompt": "a", "top_k": 0.5}, 400, "top_k", "whole"),
    ({"prompt": "a", "min_p": 3}, 400, "min_p", "from 0 to 1"),
    ({"prompt": "a", "repetition_penalty": 0}, 400, "repetition_penalty", "above 0"),
    ({"prompt": "a", "seed": -4}, 400, "seed", "from 0 to"),
    ({"prompt": "a", "stop": [5]}, 400, "stop", "strings"),
    ({"prompt": "a", "stream": "yes"}, 400, "stream", "true or false"),
    ({"prompt": "a", "stream": False, "stream_options": {}}, 400, "stream_options", "stream: true"),
    ({"prompt": "a", "stream": True, "stream_options": {"x": 1}}, 400, "x", "unknown"),
    ({"prompt": "a", "logit_bias": [1]}, 400, "logit_bias", "object"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias", "not a token id"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, 400, "logit_bias", "-100 to 100"),
    ({"prompt": "a", "logit_bias": {"9000": 1}}, 400, None, "outside the vocabulary"),
    ({"prompt": "a", "messages": []}, 400, "messages", "unknown field"),
    ({"prompt": "a", "\ud800x": 1}, 400, "\ud800x", "unknown field"),
    ({"prompt": "a", "special": "yes"}, 400, "special", "true or false"),
    ({"prompt": "a", "runtime": "none"}, 400, "runtime", "onnx"),
])  # fmt: skip
def test_completions_invalid_body_names_the_field(client, body, status, param, message):
    for stream in ({}, {"stream": True}):
        answer = client.post("/v1/completions", content=json.dumps(stream | body))
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param) and message in error["message"], error
        assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}
    if message == "holds 512":
        assert error["code"] == "context_length_exceeded"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    "prompt tokens settings top runtime temperature top_p top_k min_p repetition_penalty max_tokens logprobs seed stop "
    "echo stream stream_options n best_of messages top_logprobs max_completion_tokens response_format tools metadata "
    " presence_penalty frequency_penalty logit_bias suffix user ignore_eos "
    "more".split()
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(st.sampled_from(SETTINGS), JSON, max_size=3))
def test_any_body_is_parsed_or_refused(client, body, inner):
    """Every body is parsed or refused by the name of a field; what is parsed are values that `Generating` accepts."""
    state = client.app.state.edgekit
    talk = {"messages": [{"role": "user", "content": "a"}]}
    for parse, sent in (
        (completions.parse, {"prompt": "a"} | body),
        (chat.parse, talk | body),
        (playground.parse, {"prompt": "a"} | body),
        (playground.parse, {"prompt": "a", "settings": inner}),
    ):
        try:
            params = parse(json.dumps(sent).encode(), state)
        except RequestError as error:
            assert error.status in (400, 404) and "\n" not in str(error)
        else:
            Generating(**params.settings)


def test_models_endpoint_lists_and_retrieves(client):
    response = client.get("/v1/models").json()
    assert response["object"] == "list" and [one["id"] for one in response["data"]] == ["story-7m"]
    assert client.get("/v1/models/story-7m").json() == response["data"][0]
    assert client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


def test_unknown_paths_and_methods_are_json_errors(client):
    assert client.get("/health").json()["status"] == "ok"
    for path, method, status in (("/", "GET", 404), ("/nothing", "GET", 404), ("/v1/completions", "GET", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["message"]
    assert client.delete("/api/generate").json()["type"] == "error"


def test_completions_created_is_now_and_id_is_random(client):
    response = complete(client, prompt="a", max_tokens=1)
    assert abs(response["created"] - time.time()) < 60 and re.fullmatch(r"cmpl-[0-9a-f]{32}", response["id"])
