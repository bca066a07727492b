"""`edgekit serve` under load: sixteen clients, five hundred requests, every answer known in advance."""

import json
import threading
from pathlib import Path

import pytest
from serving import PROMPT
from test_serve_live import Server

import edgekit

CLIENTS, REQUESTS = 16, 500
MOST_GROWTH = 4 << 10
"""KiB of growth between request 100 and request 500: room for the allocator, less than 400 leaked requests."""


def resident(process):
    """KiB of a process that are in memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def requests_with_answers(path):
    """Requests of every kind with their answers: (path, body, expected text)."""
    model = edgekit.load(path, runtime="onnx")
    requests = []
    for seed in range(24):
        way = {"seed": seed, "temperature": (0, 0.7, 1.0)[seed % 3], "top_p": 0.9, "repetition_penalty": 1.1}
        count, prompt = 1 + seed % 7, PROMPT[: 4 + seed % 12]
        expected = model.generate(prompt, max_new_tokens=count, **way).text
        body = {"prompt": prompt, "max_tokens": count, **way}
        requests.append(
            ("/v1/completions", body | {"stream": seed % 2 == 0, "logprobs": 2 if seed % 5 == 0 else None}, expected)
        )
        settings = way | {"max_new_tokens": count}
        requests.append(("/api/generate", {"prompt": prompt, "settings": settings, "top": 3}, expected))
    return requests


def text_of(body, answer):
    """The text in an answer of either API."""
    if "settings" in body:
        return json.loads(answer.rstrip().split("\n\n")[-1][6:])["text"]
    if not body["stream"]:
        return json.loads(answer)["choices"][0]["text"]
    *chunks, done = answer.rstrip().split("\n\n")
    assert done == "data: [DONE]"
    return "".join(json.loads(chunk[6:])["choices"][0]["text"] for chunk in chunks)


@pytest.mark.slow
def test_server_many_clients_get_their_answers_in_constant_memory(stories):
    if not Path("/proc/self/status").is_file():
        pytest.skip("memory is read from /proc")
    known = requests_with_answers(stories)
    server = Server("-m", stories, "--runtime", "onnx", "--queue-size", CLIENTS)
    wrong, memory, lock, place = [], {}, threading.Lock(), iter(range(REQUESTS))

    def client():
        connection = server.connect()
        while (n := next(place, None)) is not None:
            path, body, expected = known[n * 7 % len(known)]
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            body_text = answer.read().decode()
            with lock:
                if answer.status != 200 or text_of(body, body_text) != expected:
                    wrong.append((n, answer.status, body_text))
                if n in (99, REQUESTS - 1):
                    memory[n] = resident(server.process)
        connection.close()

    try:
        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for one in clients:
            one.start()
        for one in clients:
            one.join(300)
        assert not wrong, wrong[:2]
        assert memory[REQUESTS - 1] - memory[99] < MOST_GROWTH, memory
        assert server.counter("edgekit_queue_length") == server.counter("edgekit_busy") == 0
        assert server.counter("edgekit_first_token_seconds_count") == REQUESTS
    finally:
        server.end()


def test_server_small_queue_answers_every_request(stories):
    """Each request gets its text, or 503 with Retry-After."""
    known = requests_with_answers(stories)[:8]
    server = Server("-m", stories, "--runtime", "onnx", "--queue-size", 1)
    answers = []

    def client(n):
        connection = server.connect()
        for path, body, expected in known[n % 4 :]:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            body_text = answer.read().decode()
            if answer.status == 503:
                answers.append(int(answer.headers["Retry-After"]) >= 1)
            else:
                answers.append(answer.status == 200 and text_of(body, body_text) == expected)
        connection.close()

    try:
        clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for one in clients:
            one.start()
        for one in clients:
            one.join(120)
        assert len(answers) == sum(len(known[n % 4 :]) for n in range(8)) and all(answers)
        assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 1})[0] == 200
    finally:
        server.end()
