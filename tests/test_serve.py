"""The server's two APIs against `generate`: the same tokens, texts and probabilities, and what they refuse."""

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
from edgekit.web import completions, playground
from edgekit.web.models import ModelPool
from edgekit.web.validation import SETTINGS, RequestError


@pytest.fixture(scope="module")
def model():
    """The bundled model, opened as anybody would: what the server must agree with."""
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
def test_the_playgrounds_text_is_that_of_generate(client, model, settings):
    settings = settings | {"max_new_tokens": 24}
    wanted = model.generate(PROMPT, logprobs=4, **settings)
    start, *tokens, end = generate(client, prompt=PROMPT, settings=settings, top=4)
    assert start["type"] == "start" and start["tokens"] == wanted.prompt and "".join(start["pieces"]) == PROMPT
    assert end["type"] == "end" and end["tokens"] == wanted.tokens and end["text"] == wanted.text
    assert end["finish_reason"] == wanted.finish_reason and end["first_token_seconds"] > 0
    assert (end["tokens_per_second"] > 0) == (len(wanted.tokens) > 1)
    assert [token["id"] for token in tokens] == wanted.tokens
    assert "".join(token["text"] for token in tokens) == wanted.text
    for token, logprob in zip(tokens, wanted.logprobs, strict=True):
        assert token["before"] == pytest.approx(math.exp(logprob.logprob), abs=1e-12)
        assert [(t["id"], t["before"]) for t in token["top"]] == [
            (id, pytest.approx(math.exp(p), abs=1e-12)) for id, p in logprob.top
        ]


@pytest.mark.parametrize("settings", WAYS[:4])
def test_after_is_what_the_sampler_draws_from(client, model, settings):
    """Each step's distribution anew: a sampler that has seen the prompt and all tokens before it, fresh logits."""
    settings = settings | {"max_new_tokens": 10}
    start, *tokens, end = generate(client, prompt=PROMPT, settings=settings, top=20)
    made = [token["id"] for token in tokens]
    model.runtime.rewind(0)
    logits = model.runtime.forward(start["tokens"])
    for place, token in enumerate(tokens):
        seen = [*start["tokens"], *made[:place]]
        sampler = Sampler(dataclasses.replace(model.defaults, **settings), model.runtime.vocab_size, seen)
        ids, probabilities = sampler.distribution(logits)
        after = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
        for entry in (token, *token["top"]):
            assert entry["after"] == pytest.approx(after.get(entry["id"], 0.0), abs=1e-12)
        assert token["after"] > 0, "what was drawn could be drawn"
        if settings["temperature"] == 0:
            assert token["after"] == 1
        logits = model.runtime.forward([token["id"]])


def test_a_branch_is_the_text_of_its_ids(client, model):
    start, *tokens, _ = generate(client, prompt=PROMPT, settings={"seed": 1, "max_new_tokens": 6}, top=5)
    other = next(entry["id"] for entry in tokens[3]["top"] if entry["id"] != tokens[3]["id"])
    prefix = [*start["tokens"], *[token["id"] for token in tokens[:3]], other]
    wanted = model.generate(prefix, seed=1, max_new_tokens=6)
    again, *_, end = generate(client, tokens=prefix, settings={"seed": 1, "max_new_tokens": 6})
    assert again["tokens"] == prefix and end["tokens"] == wanted.tokens and end["text"] == wanted.text
    assert "".join(again["pieces"]) == model.tokenizer.decode(prefix)


def test_without_a_seed_one_is_drawn_and_told(client):
    first = generate(client, prompt=PROMPT, settings={"max_new_tokens": 12})
    again = generate(client, prompt=PROMPT, settings={"max_new_tokens": 12, "seed": first[0]["seed"]})
    assert [e for e in again if e["type"] == "token"] == [e for e in first if e["type"] == "token"]
    seeds = {generate(client, prompt=PROMPT, settings={"max_new_tokens": 1})[0]["seed"] for _ in range(4)}
    assert len(seeds) > 1


def test_pieces_read_as_in_a_text(model):
    pieces, tokenizer = model.tokenizer.piece, model.tokenizer
    assert pieces(tokenizer.eos) == "</s>" and pieces(tokenizer.bos_id) == "<s>", "specials by their spelling"
    ids = tokenizer.encode("the little girl said: 12 cats, and a dog.")
    assert "".join(map(pieces, ids)).strip() == "the little girl said: 12 cats, and a dog."
    halves = tokenizer.encode("\u4e2d")[-3:]
    assert pieces(halves[-1]) == "\ufffd", "part of a character"


def test_models_and_defaults(client, model, bundled):
    (found,) = client.get("/api/models").json()["models"]
    size = (bundled / "model.safetensors").stat().st_size
    assert found == {
        "id": "story-7m", "name": "story-7m", "runtime": "onnx", "runtimes": found["runtimes"],
        "format": "Hugging Face folder", "bytes": size, "parameters": 7_179_520, "context_length": 512,
        "vocab_size": 8064,
    }  # fmt: skip
    assert found["runtimes"][0] == "onnx" and len(set(found["runtimes"])) == len(found["runtimes"])
    said = client.get("/api/defaults", params={"model": "story-7m"}).json()
    assert list(said["defaults"]) == list(said["settings"]) == list(SETTINGS)
    assert Generating(**{k: tuple(v) if k == "stop" else v for k, v in said["defaults"].items()}) == model.defaults
    for name, about in said["settings"].items():
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


@pytest.mark.parametrize("body, status, param, said", [
    (b"[1]", 400, None, "JSON object"),
    (b"{", 400, None, "not JSON"),
    (b"[" * 100_000, 400, None, "not JSON"),
    ({}, 400, "prompt", "prompt or tokens"),
    ({"prompt": "a", "tokens": [1]}, 400, "prompt", "either prompt"),
    ({"prompt": ""}, 400, "prompt", "empty"),
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
    ({"prompt": "a", "settings": {"more": 1}}, 400, "settings", "unknown"),
    ({"prompt": "a", "settings": {"banned": [1]}}, 400, "settings", "unknown"),
    ({"prompt": "a", "settings": {"top_p": 0}}, 400, "top_p", "at most 1"),
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
def test_what_the_playground_refuses(client, body, status, param, said):
    if isinstance(body, bytes):
        answer = client.post("/api/generate", content=body)
    else:
        answer = client.post("/api/generate", content=json.dumps(body))
    found = answer.json()
    assert (answer.status_code, found["type"], found["param"]) == (status, "error", param), found
    assert said in found["message"] and "\n" not in found["message"]


# ----------------------------------------------------------------------------- OpenAI's API


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("settings", WAYS)
def test_completions_are_those_of_generate(client, model, settings, stream):
    wanted = model.generate(PROMPT, max_new_tokens=24, **settings)
    body = {"model": "story-7m", "prompt": PROMPT, "max_tokens": 24, **settings}
    usage = {"prompt_tokens": len(wanted.prompt), "completion_tokens": len(wanted.tokens)}
    usage["total_tokens"] = sum(usage.values())
    if not stream:
        found = complete(client, **body)
        choice = found["choices"][0]
        assert found["object"] == "text_completion" and found["model"] == "story-7m" and found["usage"] == usage
        assert choice == {
            "text": wanted.text, "index": 0, "logprobs": None, "finish_reason": wanted.finish_reason
        }  # fmt: skip
        return
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = events(client.post("/v1/completions", json=body))
    assert done == "[DONE]" and last["choices"] == [] and last["usage"] == usage
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == wanted.text and len(chunks) > 3
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == wanted.finish_reason
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


def test_what_is_absent_takes_the_models_defaults(client, model):
    wanted = model.generate(PROMPT, max_new_tokens=16, seed=5)
    assert model.defaults.temperature > 0 and len(wanted.tokens) == 16
    absent = complete(client, prompt=PROMPT, seed=5)
    null = complete(client, prompt=[PROMPT], seed=5, temperature=None, top_p=None, max_tokens=None, logprobs=None,
                    stop=None, echo=None, stream=None, n=1, user="me", suffix=None, presence_penalty=0)  # fmt: skip
    assert absent["choices"] == null["choices"] and absent["choices"][0]["text"] == wanted.text


def test_prompts_of_ids(client, model):
    ids = model.encode("The cat")
    wanted = model.generate(ids, max_new_tokens=8, temperature=0)
    for prompt in (ids, [ids], "The cat", ["The cat"]):
        assert complete(client, prompt=prompt, max_tokens=8, temperature=0)["choices"][0]["text"] == wanted.text


def together(chunks):
    """A stream's chunks as one choice."""
    choices = [chunk["choices"][0] for chunk in chunks]
    logprobs = {key: [x for c in choices for x in c["logprobs"][key]] for key in choices[0]["logprobs"]}
    text = "".join(c["text"] for c in choices)
    return {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": choices[-1]["finish_reason"]}


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("stop", [None, [" She", "."]])
def test_logprobs(client, model, echo, stop):
    settings = {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 4, "stop": stop or []}
    wanted = model.generate(PROMPT, max_new_tokens=20, logprobs=3, **settings)
    body = {"prompt": PROMPT, "max_tokens": 20, "logprobs": 3, "echo": echo, **settings}
    choice = complete(client, **body)["choices"][0]
    found, pieces = choice["logprobs"], model.tokenizer.piece
    assert choice["text"] == (PROMPT if echo else "") + wanted.text
    skip = len(wanted.prompt) if echo else 0
    if stop:  # the tokens of the text that is there, and no more
        assert wanted.finish_reason == "stop" and len(found["tokens"]) - skip < len(wanted.tokens)
    else:
        assert len(found["tokens"]) - skip == len(wanted.tokens) == 20
    full = PROMPT + wanted.text
    for place, token in enumerate(wanted.logprobs[: len(found["tokens"]) - skip], skip):
        assert found["token_logprobs"][place] == pytest.approx(token.logprob, abs=1e-12)
        tops = {pieces(id): pytest.approx(p, abs=1e-12) for id, p in reversed([*token.top])}
        assert found["top_logprobs"][place] == {pieces(token.token): pytest.approx(token.logprob)} | tops
        assert found["tokens"][place] == pieces(token.token)
        at, piece = found["text_offset"][place], found["tokens"][place]
        # After TokenMonster's delete marker a token's space is gone from the text; a stop string may cut the last.
        assert full[at:].startswith((piece, piece.removeprefix(" "))) or full[at:] in piece
    streamed = events(client.post("/v1/completions", json=body | {"stream": True}))
    assert together(streamed[:-1]) == choice


def test_scoring_a_prompt(client, model):
    """As evaluation harnesses do: echo, logprobs, nothing new. The truth is one forward pass over the prompt."""
    text = "Once upon a time there was a little girl. She had a cat."
    ids = model.encode(text)
    model.runtime.rewind(0)
    logprobs = log_softmax(model.runtime.forward(ids, every=True))
    found = complete(client, prompt=text, max_tokens=0, echo=True, logprobs=1)
    choice = found["choices"][0]
    assert choice["text"] == text and choice["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
    said = choice["logprobs"]
    assert said["token_logprobs"][0] is None and said["top_logprobs"][0] is None and len(said["tokens"]) == len(ids)
    true = [logprobs[place, id] for place, id in enumerate(ids[1:])]
    assert said["token_logprobs"][1:] == pytest.approx(true, abs=1e-3)
    greedy = [max(top, key=top.get) == token for top, token in zip(said["top_logprobs"], said["tokens"], strict=True)
              if top]  # fmt: skip
    assert greedy == [int(np.argmax(row)) == id for row, id in zip(logprobs, ids[1:], strict=False)]
    offsets = said["text_offset"]
    assert offsets == sorted(offsets) and offsets[0] == 0
    assert complete(client, prompt=text, max_tokens=0, echo=False)["choices"][0]["text"] == ""


def test_a_character_of_several_tokens_is_one_chunk(client, model):
    """Text leaves at characters' borders; no chunk has half of one."""
    ids = model.encode("a \u4e2d")
    half = model.tokenizer.encode("\u4e2d")[-2:]
    bias = {str(half[0]): 100, str(half[1]): 99}
    body = {"prompt": ids[:-2], "max_tokens": 4, "temperature": 0, "repetition_penalty": 100, "logit_bias": bias,
            "logprobs": 0}  # fmt: skip
    whole = complete(client, **body)["choices"][0]
    wanted = model.generate(
        ids[:-2], max_new_tokens=4, temperature=0, repetition_penalty=100.0, logit_bias={half[0]: 100.0, half[1]: 99.0}
    )
    assert whole["text"] == wanted.text and len(whole["logprobs"]["tokens"]) == 4
    streamed = events(client.post("/v1/completions", json=body | {"stream": True}))
    assert together(streamed[:-1]) == whole


@pytest.mark.parametrize("body, status, param, said", [
    ({}, 400, "prompt", "missing"),
    ({"prompt": ["a", "b"]}, 400, "prompt", "2 prompts"),
    ({"prompt": [[1], [2]]}, 400, "prompt", "2 prompts"),
    ({"prompt": []}, 400, "prompt", "token ids"),
    ({"prompt": [[]]}, 400, "prompt", "token ids"),
    ({"prompt": {"a": 1}}, 400, "prompt", "token ids"),
    ({"prompt": [9000]}, 400, "prompt", "0 to 8063"),
    ({"prompt": ""}, 400, "prompt", "empty"),
    ({"prompt": [5] * 513}, 400, "prompt", "holds 512"),
    ({"prompt": "a", "model": "gpt-4"}, 404, "model", "story-7m"),
    ({"prompt": "a", "model": 4}, 400, "model", "a string"),
    ({"prompt": "a", "max_tokens": -1}, 400, "max_tokens", "from 0"),
    ({"prompt": "a", "max_tokens": "9"}, 400, "max_tokens", "whole"),
    ({"prompt": "a", "n": 2}, 400, "n", "not supported"),
    ({"prompt": "a", "n": True}, 400, "n", "not supported"),
    ({"prompt": "a", "best_of": 3}, 400, "best_of", "not supported"),
    ({"prompt": "a", "suffix": "z"}, 400, "suffix", "not supported"),
    ({"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
    ({"prompt": "a", "frequency_penalty": -1}, 400, "frequency_penalty", "not supported"),
    ({"prompt": "a", "logprobs": 6}, 400, "logprobs", "from 0 to 5"),
    ({"prompt": "a", "logprobs": True}, 400, "logprobs", "from 0 to 5"),
    ({"prompt": "a", "temperature": -1}, 400, "temperature", "at least 0"),
    ({"prompt": "a", "top_p": 2}, 400, "top_p", "at most 1"),
    ({"prompt": "a", "top_k": 0.5}, 400, "top_k", "whole"),
    ({"prompt": "a", "min_p": 3}, 400, "min_p", "from 0 to 1"),
    ({"prompt": "a", "repetition_penalty": 0}, 400, "repetition_penalty", "above 0"),
    ({"prompt": "a", "seed": -4}, 400, "seed", "from 0 to"),
    ({"prompt": "a", "stop": ""}, 400, "stop", "none empty"),
    ({"prompt": "a", "stream": "yes"}, 400, "stream", "true or false"),
    ({"prompt": "a", "stream": False, "stream_options": {}}, 400, "stream_options", "stream: true"),
    ({"prompt": "a", "stream": True, "stream_options": {"x": 1}}, 400, "x", "unknown"),
    ({"prompt": "a", "logit_bias": [1]}, 400, "logit_bias", "object"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias", "not a token id"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, 400, "logit_bias", "-100 to 100"),
    ({"prompt": "a", "logit_bias": {"9000": 1}}, 400, None, "outside the vocabulary"),
    ({"prompt": "a", "messages": []}, 400, "messages", "unknown field"),
])  # fmt: skip
def test_what_completions_refuse(client, body, status, param, said):
    for stream in ({}, {"stream": True}):
        answer = client.post("/v1/completions", json=stream | body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param) and said in error["message"], error
        assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}
    if said == "holds 512":
        assert error["code"] == "context_length_exceeded"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    "prompt tokens settings top runtime temperature top_p top_k min_p repetition_penalty max_tokens logprobs seed stop "
    "echo stream stream_options n logit_bias suffix user ignore_eos more".split()
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(st.sampled_from(SETTINGS), JSON, max_size=3))
def test_no_body_is_a_bug(client, body, inner):
    """Whatever is sent is understood or refused by name; what was understood are values that `Generating` takes."""
    state = client.app.state.edgekit
    for read, sent in ((completions.parse, body), (playground.parse, body), (playground.parse, {"settings": inner})):
        try:
            asked = read(json.dumps({"prompt": "a"} | sent).encode(), state)
        except RequestError as refused:
            assert refused.status in (400, 404) and "\n" not in str(refused)
        else:
            Generating(**asked.settings)


def test_openais_models(client):
    found = client.get("/v1/models").json()
    assert found["object"] == "list" and [one["id"] for one in found["data"]] == ["story-7m"]
    assert client.get("/v1/models/story-7m").json() == found["data"][0]
    assert client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


def test_other_paths_and_methods(client):
    assert client.get("/health").json()["status"] == "ok"
    for path, method, status in (("/", "GET", 404), ("/nothing", "GET", 404), ("/v1/completions", "GET", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["message"]
    assert client.delete("/api/generate").json()["type"] == "error"


def test_no_wall_clock_in_answers_but_created(client):
    found = complete(client, prompt="a", max_tokens=1)
    assert abs(found["created"] - time.time()) < 60 and re.fullmatch(r"cmpl-[0-9a-f]{32}", found["id"])
