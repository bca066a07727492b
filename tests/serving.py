"""Helpers for tests of the server: an application in this process, parsed responses, and raw ASGI requests."""

import asyncio
import contextlib
import json
import threading

import pytest

for package in ("httpx2", "onnxruntime", "onnx"):
    pytest.importorskip(package)
web = pytest.importorskip("edgekit.web.app", reason="needs the extra serve")
testing = pytest.importorskip("starlette.testclient")
pool_module = pytest.importorskip("edgekit.web.models")
settings = pytest.importorskip("edgekit.web.settings")

HERE = "http://127.0.0.1:8000"
PROMPT = "Once upon a time"
LONG = {"prompt": PROMPT, "max_tokens": 100, "ignore_eos": True, "temperature": 0}


def served(pool, pages=None, **more):
    """A client of an application in this process."""
    app = web.application(pool, settings.Serving(**more), pages)
    return testing.TestClient(app, base_url=HERE, raise_server_exceptions=False)


def events(answer):
    """The JSON of a text/event-stream; OpenAI's last line is not JSON and stays a string."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines.pop() == "" and all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) if line != "data: [DONE]" else "[DONE]" for line in lines]


def generate(client, **body):
    return events(client.post("/api/generate", json=body))


def complete(client, **body):
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


class Gate:
    """A runtime whose forward calls each wait for a release of `free`."""

    def __init__(self, runtime):
        self._runtime, self.free, self.calls = runtime, threading.Semaphore(0), 0

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def forward(self, tokens, *, every=False):
        assert self.free.acquire(timeout=30)
        self.calls += 1
        return self._runtime.forward(tokens, every=every)


@contextlib.contextmanager
def gated(**more):
    """An application whose model waits at a `Gate`; its worker runs."""
    pool = pool_module.ModelPool([None], runtime="onnx")
    model = pool.open(pool.first, "onnx")
    gate = model.runtime = Gate(model.runtime)
    app = web.application(pool, settings.Serving(**more))
    worker = app.state.edgekit.worker
    worker.start()
    try:
        yield app, gate, worker
    finally:
        gate.free.release(1000)
        worker.stop()


class RawRequest:
    """An ASGI request whose client may disconnect at any moment."""

    def __init__(self, app, path, body, whole=True):
        self.sent, self._in = [], asyncio.Queue()
        self._in.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": not whole})
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": [(b"host", b"127.0.0.1")], "http_version": "1.1", "scheme": "http", "root_path": "",
                 "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 5), "app": app, "state": {}}  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._in.get, self._send))

    async def _send(self, message):
        self.sent.append(message)

    def leave(self):
        self._in.put_nowait({"type": "http.disconnect"})

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None

    @property
    def text(self):
        return b"".join(m.get("body", b"") for m in self.sent).decode()


async def until(true):
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition was not met in 10 s")
