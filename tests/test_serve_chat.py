"""/v1/chat/completions with the official client; `Model.chat` and transformers are the reference."""

import json

import pytest
from helpers import write_model
from serving import events, pool_module, served
from test_chat import TINY
from test_chat_template import CHATML, LLAMA2, files_with
from test_serve_live import Server

import edgekit

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is the capital of France?"}
TALK = [SYSTEM, USER, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Spain?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("chat") / "tiny", TINY, files=files_with(CHATML), std=0.3)


@pytest.fixture(scope="module")
def model(folder):
    return edgekit.load(folder, runtime="onnx")


@pytest.fixture(scope="module")
def openai_client(folder):
    openai = pytest.importorskip("openai")
    server = Server("-m", folder, "--runtime", "onnx")
    try:
        with openai.OpenAI(base_url=server.address + "v1", api_key="none is asked for", max_retries=0) as client:
            yield client.chat.completions
    finally:
        server.end()


@pytest.fixture(scope="module")
def client(folder):
    with served(pool_module.ModelPool([folder], runtime="onnx")) as client:
        yield client


WAYS = [
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.9, "seed": 7},
    {"temperature": 1.2, "seed": 1, "presence_penalty": 0.5, "frequency_penalty": 0.7},
    {"temperature": 1.1, "seed": 3, "stop": ["e", "a"]},
]


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_openai_client_answer_equals_model_chat(openai_client, model, settings, limit):
    expected = model.chat(TALK, max_new_tokens=24, **settings).drain()
    response = openai_client.create(model="tiny", messages=TALK, **{limit: 24}, **settings)
    (choice,) = response.choices
    assert choice.message.role == "assistant" and choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason and choice.logprobs is None
    assert response.object == "chat.completion" and response.model == "tiny" and response.id.startswith("chatcmpl-")
    counts = response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.total_tokens
    assert counts == (len(expected.prompt), len(expected.tokens), len(expected.prompt) + len(expected.tokens))
    options = {"include_usage": True}
    *chunks, last = openai_client.create(
        model="tiny", messages=TALK, **{limit: 24}, **settings, stream=True, stream_options=options
    )
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].object == "chat.completion.chunk"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [expected.finish_reason] and len(chunks) > 3
    assert last.choices == [] and last.usage.total_tokens == counts[2]
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_openai_client_greedy_answer_equals_transformers(openai_client, folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype="float32").eval()
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)["input_ids"]
    tokens = reference.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, pad_token_id=0)[0, len(ids) :]
    response = openai_client.create(model="tiny", messages=TALK, temperature=0, max_tokens=16)
    assert response.usage.prompt_tokens == len(ids)
    assert response.choices[0].message.content == tokenizer.decode(tokens, skip_special_tokens=True)


def test_openai_client_logprobs_equal_model_chat(openai_client, model):
    expected = model.chat(TALK, max_new_tokens=12, temperature=0.9, seed=5, logprobs=3).drain()
    body = {"model": "tiny", "messages": TALK, "max_tokens": 12, "temperature": 0.9, "seed": 5}
    whole = openai_client.create(**body, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in openai_client.create(**body, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == whole and len(whole) == len(expected.tokens)
    for entry, logprob in zip(whole, expected.logprobs, strict=True):
        assert entry.token == model.tokenizer.piece(logprob.token)
        assert entry.logprob == pytest.approx(logprob.logprob, abs=1e-4)
        assert [top.token for top in entry.top_logprobs] == [model.tokenizer.piece(id) for id, _ in logprob.top]
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx([p for _, p in logprob.top], abs=1e-4)
    text = b"".join(bytes(entry.bytes or ()) for entry in whole).decode(errors="replace")
    assert text == expected.text
    assert all(
        entry.top_logprobs == [] for entry in openai_client.create(**body, logprobs=True).choices[0].logprobs.content
    )


def test_openai_client_end_of_turn_has_an_entry_and_no_text(openai_client, model):
    (end,) = model.tokenizer.encode("<|im_end|>", specials=True)
    response = openai_client.create(
        model="tiny", messages=TALK, temperature=0, logprobs=True, logit_bias={str(end): 100}
    )  # fmt: skip
    (choice,) = response.choices
    assert choice.message.content == "" and choice.finish_reason == "stop" and response.usage.completion_tokens == 1
    assert [(entry.token, entry.bytes) for entry in choice.logprobs.content] == [("<|im_end|>", None)]


def test_openai_client_choices_have_the_next_seeds(openai_client, model):
    body = {"model": "tiny", "messages": TALK, "max_tokens": 10, "temperature": 1.1, "seed": 20, "n": 3}
    expected = [model.chat(TALK, max_new_tokens=10, temperature=1.1, seed=seed).drain() for seed in (20, 21, 22)]
    response = openai_client.create(**body)
    assert [choice.index for choice in response.choices] == [0, 1, 2]
    assert [choice.message.content for choice in response.choices] == [each.text for each in expected]
    assert response.usage.completion_tokens == sum(len(each.tokens) for each in expected)
    assert response.usage.prompt_tokens == len(expected[0].prompt)
    streamed = [""] * 3
    for chunk in openai_client.create(**body, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == [each.text for each in expected]


def test_openai_client_streaming_helper_collects_the_answer(openai_client, model):
    settings = {"temperature": 0.9, "seed": 7, "stop": ["e", "a"]}
    expected = model.chat(TALK, max_new_tokens=200, **settings).drain()
    assert expected.finish_reason == "stop"  # the client raises at "length"
    with openai_client.stream(
        model="tiny", messages=TALK, max_tokens=200, logprobs=True, stream_options={"include_usage": True}, **settings
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == expected.text
    assert len(final.choices[0].logprobs.content) == final.usage.completion_tokens == len(expected.tokens)


def test_openai_client_conversation_is_not_read_again(openai_client):
    messages, counts = [SYSTEM, USER], []
    for _ in range(3):
        response = openai_client.create(model="tiny", messages=messages, temperature=0, max_tokens=8)
        counts.append((response.usage.prompt_tokens, response.usage.prompt_tokens_details.cached_tokens))
        messages = [*messages, response.choices[0].message, {"role": "user", "content": "Go on."}]
    assert counts[1][1] >= counts[0][0] and counts[2][1] >= counts[1][0] and counts[2][0] > counts[1][0]


def test_openai_client_without_limit_answers_until_the_context_is_full(openai_client, model):
    response = openai_client.create(
        model="tiny", messages=TALK, temperature=0, extra_body={"ignore_eos": True}
    )  # fmt: skip
    assert response.choices[0].finish_reason == "length"
    assert response.usage.total_tokens == model.runtime.context_length


def chat(client, **body):
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_chat_accepts_what_clients_send(client):
    plain = chat(client, messages=TALK, max_tokens=6, temperature=0)["choices"]
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    spelled = [
        {"role": "developer", "content": parts, "name": "me"}, USER,
        {"role": "assistant", "content": "Paris.", "refusal": None, "tool_calls": None, "annotations": []}, TALK[-1],
    ]  # fmt: skip
    assert chat(client, messages=spelled, max_tokens=6, temperature=0)["choices"] == plain
    off = {
        "model": None, "n": None, "stop": "", "seed": -1, "top_k": -1, "stream": False, "logprobs": False, "tools": [],
        "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "user": "me",
        "parallel_tool_calls": True, "metadata": {}, "store": False, "service_tier": "auto", "logit_bias": {},
        "presence_penalty": 0, "frequency_penalty": 0, "top_logprobs": 0, "max_tokens": 500, "audio": None,
        "functions": None, "function_call": None, "reasoning_effort": None, "prompt_cache_key": "a",
    }  # fmt: skip
    assert chat(client, messages=TALK, temperature=0, max_completion_tokens=6, **off)["choices"] == plain
    with_null = chat(client, messages=[USER, {"role": "assistant", "content": None}], max_tokens=2, temperature=0)
    assert with_null["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("body, status, param, message", [
    ({}, 400, "messages", "non-empty list"),
    ({"messages": []}, 400, "messages", "non-empty list"),
    ({"messages": "hi"}, 400, "messages", "non-empty list"),
    ({"messages": ["hi"]}, 400, "messages", "messages[0] must be an object"),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, 400, "messages", "messages[1].role must be system"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, 400, "messages", "messages[0].role"),
    ({"messages": [{"content": "x"}]}, 400, "messages", "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages", "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", "content[0] must be"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, 400, "messages", "not supported"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages", "not UTF-8"),
    ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "messages", "holds 256"),
    ({"messages": [USER], "prompt": "x"}, 400, "prompt", "unknown field"),
    ({"messages": [USER], "top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
    ({"messages": [USER], "logprobs": 2}, 400, "logprobs", "true or false"),
    ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "from 0 to 20"),
    ({"messages": [USER], "max_tokens": 0}, 400, "max_tokens", "from 1"),
    ({"messages": [USER], "max_completion_tokens": "9"}, 400, "max_completion_tokens", "whole"),
    ({"messages": [USER], "n": 129}, 400, "n", "from 1 to 128"),
    ({"messages": [USER], "functions": [{}]}, 400, "functions", "not supported"),
    ({"messages": [USER], "tools": [{}]}, 400, "tools", "not supported"),
    ({"messages": [USER], "response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
    ({"messages": [USER], "temperature": -1}, 400, "temperature", "at least 0"),
    ({"messages": [USER], "stream_options": {}}, 400, "stream_options", "stream: true"),
    ({"messages": [USER], "special": False}, 400, "special", "true"),
    ({"messages": [USER], "truncate": "right"}, 400, "truncate", "left"),
    ({"messages": [USER], "runtime": "none"}, 400, "runtime", "onnx"),
    ({"messages": [USER], "\udc00": 1}, 400, "\udc00", "unknown field"),
])  # fmt: skip
def test_chat_invalid_body_names_the_field(client, body, status, param, message):
    answer = client.post("/v1/chat/completions", content=json.dumps(body))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param) and message in error["message"], error
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    if "holds" in message:
        assert error["code"] == "context_length_exceeded"


def test_chat_conversation_as_long_as_the_context_is_refused_and_none_is_cut(client, model):
    """Up to one token less than the context; no message is left out, whatever the limit of the answer."""
    turn = {"role": "user", "content": ""}
    bare = len(model.chat([*TALK, turn], max_new_tokens=1).result.prompt)
    for space in (0, 1, 2):
        turn["content"] = "x" * (model.runtime.context_length - bare - space)
        body = {"messages": [*TALK, turn], "temperature": 0, "ignore_eos": True}
        answer = client.post("/v1/chat/completions", json=body)
        if space == 0:
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
        else:
            usage = answer.json()["usage"]
            assert usage["prompt_tokens"] == model.runtime.context_length - space
            assert usage["completion_tokens"] == space


@pytest.mark.parametrize("limit", [40, None])
def test_chat_truncate_leaves_the_oldest_messages_out(client, model, limit):
    long = [
        SYSTEM,
        *({"role": role, "content": f"{i} " * 12} for i in range(6) for role in ("user", "assistant")),
        USER,
    ]
    body = {"messages": long, "temperature": 0, "max_tokens": limit}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    expected = model.chat(long, temperature=0, max_new_tokens=limit or 1000).drain()
    answer = chat(client, **body, truncate="left")
    assert answer["usage"]["dropped_messages"] == expected.dropped_messages > 0
    assert answer["usage"]["prompt_tokens"] == len(expected.prompt)
    assert answer["choices"][0]["message"]["content"] == expected.text
    short = chat(client, messages=TALK, temperature=0, max_tokens=2, truncate="left")["usage"]
    assert short["dropped_messages"] == 0 and "dropped_messages" not in chat(client, messages=TALK)["usage"]


def test_chat_template_that_refuses_is_400_and_no_template_too(tmp_path):
    refusing = write_model(tmp_path / "llama2", TINY, files=files_with(LLAMA2))
    without = write_model(tmp_path / "base", TINY, files=files_with(None))
    pool = pool_module.ModelPool([refusing, without], runtime="onnx")
    with served(pool) as client:
        answer = client.post("/v1/chat/completions", json={"model": "llama2", "messages": [USER, USER]})
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == "messages" and "roles must alternate" in error["message"]
        answer = client.post("/v1/chat/completions", json={"model": "base", "messages": [USER], "stream": True})
        error = answer.json()["error"]
        assert answer.status_code == 400 and "base has no chat template" in error["message"]
        unknown = client.post("/v1/chat/completions", json={"model": "other", "messages": [USER]})
        assert unknown.status_code == 404


def test_chat_stream_is_server_sent_events(client):
    body = {"messages": [USER], "max_tokens": 3, "temperature": 0, "stream": True, "ignore_eos": True}
    *chunks, done = events(client.post("/v1/chat/completions", json=body))
    assert done == "[DONE]" and {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
