"""`edgekit serve` under load: sixteen clients, every answer known in advance, slow and silent clients among them.

EDGEKIT_LOAD_REQUESTS=5000 pytest tests/test_serve_load.py -s     # the run of docs/server.md
"""

import contextlib
import json
import os
import statistics
import threading
import time
from pathlib import Path

import pytest
from serving import PROMPT
from test_serve_hostile import HEAD, WHOLE, answer, connect
from test_serve_live import Server

import edgekit

CLIENTS, REQUESTS = 16, int(os.environ.get("EDGEKIT_LOAD_REQUESTS", 500))
MOST_GROWTH = 4 << 10
"""KiB of growth between request 100 and the last: room for the allocator, less than 400 leaked requests."""


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


def silent(server, over):
    """Connects and says nothing, 8 connections at a time, until the server closes them."""
    while not over.is_set():
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(contextlib.closing(connect(server))) for _ in range(8)]
            for one in connections:
                one.settimeout(0.5)
                with contextlib.suppress(OSError):
                    one.recv(1)


def begun(server, over):
    """Sends the beginning of a head or of a body, and leaves."""
    while not over.wait(0.05):
        for part in (HEAD[:40], WHOLE[:-3]):
            with connect(server) as connection:
                connection.sendall(part.encode())


def leaves(server, over):
    """Asks for a long text and leaves after its first bytes."""
    body = json.dumps({"prompt": PROMPT, "max_tokens": 200, "stream": True, "ignore_eos": True})
    while not over.wait(0.1):
        with connect(server) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            connection.recv(64)


def trickles(server, over):
    """Sends a request byte by byte, slower than the limit; its answer is 408."""
    while not over.is_set():
        with connect(server) as connection:
            with contextlib.suppress(OSError):
                for byte in WHOLE.encode():
                    connection.sendall(bytes([byte]))
                    if over.wait(0.05):
                        return
            text = ""
            with contextlib.suppress(OSError):
                text = answer(connection)
            assert text == "" or text.startswith("HTTP/1.1 408"), text


@pytest.mark.slow
def test_server_many_clients_get_their_answers_in_constant_memory(stories):
    if not Path("/proc/self/status").is_file():
        pytest.skip("memory is read from /proc")
    known = requests_with_answers(stories)
    server = Server("-m", stories, "--runtime", "onnx", "--queue-size", 2 * CLIENTS, "--read-limit", 2)
    wrong, memory, times = [], {}, []
    lock, place, over = threading.Lock(), iter(range(REQUESTS)), threading.Event()

    def client():
        connection = server.connect()
        while (n := next(place, None)) is not None:
            path, body, expected = known[n * 7 % len(known)]
            begin = time.perf_counter()
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            body_text = answer.read().decode()
            with lock:
                times.append(time.perf_counter() - begin)
                if answer.status != 200 or text_of(body, body_text) != expected:
                    wrong.append((n, answer.status, body_text))
                if n in (99, REQUESTS - 1):
                    memory[n] = resident(server.process)
        connection.close()

    def other(each):
        try:
            each(server, over)
        except Exception as error:
            wrong.append((each.__name__, repr(error)))

    try:
        others = [threading.Thread(target=other, args=(each,)) for each in (silent, begun, leaves, trickles)]
        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for one in [*others, *clients]:
            one.start()
        for one in clients:
            one.join(300 + REQUESTS)
        over.set()
        for one in others:
            one.join(30)
        assert not wrong, wrong[:2]
        assert len(times) == REQUESTS
        percentiles = statistics.quantiles(times, n=100)
        print(
            f"\n{REQUESTS} requests of {CLIENTS} clients: median {1000 * percentiles[49]:.0f} ms, "
            f"p99 {1000 * percentiles[98]:.0f} ms, longest {1000 * max(times):.0f} ms; memory after 100 requests "
            f"{memory[99] >> 10} MiB, at the end {memory[REQUESTS - 1] >> 10} MiB"
        )
        assert memory[REQUESTS - 1] - memory[99] < MOST_GROWTH, memory
        assert not [one for one in others if one.is_alive()]
        until = time.monotonic() + 30
        while server.counter("edgekit_busy") and time.monotonic() < until:
            time.sleep(0.1)
        assert server.counter("edgekit_queue_length") == server.counter("edgekit_busy") == 0
        assert server.counter("edgekit_first_token_seconds_count") >= REQUESTS
    finally:
        over.set()
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
