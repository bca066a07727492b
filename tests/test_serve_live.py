"""`edgekit serve` as a separate process, with the official openai client; start-up and shutdown."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from serving import PROMPT

import edgekit

EDGEKIT = [sys.executable, "-m", "edgekit"]


class Server:
    """A running `edgekit serve`; `address` is the line it prints once it is ready."""

    def __init__(self, *arguments, command="serve"):
        self.process = subprocess.Popen(
            [*EDGEKIT, command, "--port", "0", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.process.stderr.read()

    def connect(self):
        return http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)

    def ask(self, path, body=None):
        """(status, text) of one request on a new connection."""
        connection = self.connect()
        try:
            connection.request("GET" if body is None else "POST", path, body and json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def counter(self, name):
        lines = self.ask("/metrics")[1].splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))

    def ended(self, timeout=30):
        """(exit status, stderr)."""
        errors = self.process.communicate(timeout=timeout)[1]
        return self.process.returncode, errors

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def server():
    server = Server("--runtime", "onnx", "--time-limit", 60)
    yield server
    server.end()


@pytest.fixture(scope="module")
def model():
    return edgekit.load(runtime="onnx")


@pytest.fixture(scope="module")
def client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=server.address + "v1", api_key="none is asked for", max_retries=0) as client:
        yield client


def test_openai_client_text_equals_generate(client, model):
    for way in ({"temperature": 0}, {"temperature": 0.8, "top_p": 0.7, "seed": 7}, {"seed": 1, "stop": [".", "!"]}):
        expected = model.generate(PROMPT, max_new_tokens=24, **way)
        response = client.completions.create(model="story-7m", prompt=PROMPT, max_tokens=24, **way)
        assert response.choices[0].text == expected.text and response.choices[0].finish_reason == expected.finish_reason
        assert response.usage.completion_tokens == len(expected.tokens)
        streamed = list(client.completions.create(model="story-7m", prompt=PROMPT, max_tokens=24, stream=True, **way))
        assert "".join(chunk.choices[0].text for chunk in streamed) == expected.text
        assert streamed[-1].choices[0].finish_reason == expected.finish_reason
    more = {"repetition_penalty": 1.3, "top_k": 20, "min_p": 0.05}
    expected = model.generate(PROMPT, max_new_tokens=16, seed=2, **more)
    response = client.completions.create(model="story-7m", prompt=PROMPT, max_tokens=16, seed=2, extra_body=more)
    assert response.choices[0].text == expected.text


def test_openai_client_logprobs_equal_generate(client, model):
    expected = model.generate(PROMPT, max_new_tokens=8, seed=3, logprobs=2)
    response = client.completions.create(model="story-7m", prompt=PROMPT, max_tokens=8, seed=3, logprobs=2, echo=True)
    choice, skip = response.choices[0], len(expected.prompt)
    assert choice.text == PROMPT + expected.text and choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[skip:] == pytest.approx([t.logprob for t in expected.logprobs], abs=1e-9)
    for offset, token in zip(choice.logprobs.text_offset[skip:], choice.logprobs.tokens[skip:], strict=True):
        assert choice.text[offset:].startswith(token)


def test_openai_client_prompts_and_choices_equal_generate(client, model):
    prompts = ["The quick brown fox", "Jack and Jill went"]
    way = {"temperature": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    response = client.completions.create(model="any name", prompt=prompts, n=2, max_tokens=8, seed=3, **way)
    expected = [model.generate(p, max_new_tokens=8, seed=seed, **way).text for p in prompts for seed in (3, 4)]
    assert [(c.index, c.text) for c in response.choices] == list(enumerate(expected)) and response.model == "story-7m"
    streamed = [""] * 4
    for chunk in client.completions.create(
        model="story-7m", prompt=prompts, n=2, max_tokens=8, seed=3, stream=True, **way
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == expected


def test_openai_client_invalid_request_raises_its_errors(client):
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="story-7m", prompt=PROMPT, n=0)
    assert caught.value.param == "n" and "n must be" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"
    assert [one.id for one in client.models.list()] == ["story-7m"]
    assert client.models.retrieve("story-7m").owned_by == "edgekit"


def test_server_client_disconnect_frees_the_model(server):
    before = server.counter("edgekit_new_tokens_total")
    body = json.dumps({"prompt": PROMPT, "max_tokens": 500, "ignore_eos": True, "stream": True, "seed": 1}).encode()
    with socket.create_connection(urlsplit(server.address).netloc.split(":")) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    status, _ = server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 1})
    assert status == 200 and server.counter("edgekit_busy") == server.counter("edgekit_queue_length") == 0
    assert 2 <= server.counter("edgekit_new_tokens_total") - before < 400, "the text ended when its client left"


def test_server_sigterm_ends_the_running_text(bundled):
    server = Server("-m", bundled, "--runtime", "onnx", "--grace", 0.1)
    try:
        connection = server.connect()
        body = {"prompt": PROMPT, "max_tokens": 500, "ignore_eos": True, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        rest = answer.read().decode()
        assert "the server is stopping" in rest and rest.endswith("data: [DONE]\n\n"), rest[-300:]
        status, message = server.ended()
        assert status == 0 and "Traceback" not in message, message
    finally:
        server.end()


def test_server_ctrl_c_exits_with_130():
    server = Server("--runtime", "onnx")
    try:
        idle = server.connect()  # an open connection must not keep the server running
        idle.request("GET", "/health")
        assert idle.getresponse().read()
        server.process.send_signal(signal.SIGINT)
        status, message = server.ended()
        assert status == 130 and message == "story-7m · Ctrl-C stops\n", message
    finally:
        server.end()


def refused_call(*arguments, **environment):
    done = subprocess.run(
        [*EDGEKIT, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("Error: "), done.stderr
    return done.returncode, done.stderr


def test_serve_invalid_call_is_one_line():
    status, message = refused_call("serve", "--host", "0.0.0.0", EDGEKIT_API_KEY="")
    assert status == 2 and "EDGEKIT_API_KEY" in message
    status, message = refused_call("serve", "-m", "no-such-model.gguf")
    assert status == 1 and "no-such-model.gguf" in message
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, message = refused_call("serve", "--port", taken.getsockname()[1])
    assert status == 1 and "--port" in message


def test_serve_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("EDGEKIT_API_KEY", "s3cret")
    server = Server("--runtime", "onnx")
    try:
        assert server.ask("/v1/models")[0] == 401 and server.ask("/health")[0] == 200
        connection = server.connect()
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer s3cret"})
        assert connection.getresponse().status == 200
    finally:
        server.end()


def test_demo_serves_pages_and_the_api():
    from edgekit.web import app

    if not (app.PAGES / "index.html").is_file():
        pytest.skip("no pages in this checkout")
    server = Server("--runtime", "onnx", "--no-open", command="demo")
    try:
        assert "<html" in server.ask("/")[1] and server.ask("/v1/models")[0] == 200
    finally:
        server.end()
