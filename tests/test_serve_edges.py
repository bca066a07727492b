"""The server's edges: access control, the queue, clients that disconnect, several models, pages, settings."""

import asyncio
import base64
import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from serving import HERE, LONG, PROMPT, RawRequest, complete, gated, generate, pool_module, served, until, web

import edgekit
from edgekit.errors import SettingError, UsageError
from edgekit.web.models import ModelPool
from edgekit.web.server import listen
from edgekit.web.settings import Serving
from edgekit.web.validation import RequestError
from edgekit.web.worker import Done, ModelWorker


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


# ----------------------------------------------------------------------------- access control


@pytest.mark.parametrize("path, body, status", [
    ("/health", None, 200), ("/metrics", None, 200), ("/v1/models", None, 200), ("/api/models", None, 200),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}, 200), ("/v1/completions", {}, 200),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1, "stream": True}, 200), ("/v1/completions", {"x": 1}, 400),
    ("/api/generate", {"x": 1}, 400), ("/nowhere", None, 404), ("/v1/completions", None, 405),
])  # fmt: skip
def test_response_says_nosniff(client, path, body, status):
    answer = client.get(path) if body is None else client.post(path, json=body)
    assert (answer.status_code, answer.headers.get_list("x-content-type-options")) == (status, ["nosniff"])
    refused = client.get(path, headers={"Host": "evil.example"})
    assert (refused.status_code, refused.headers.get_list("x-content-type-options")) == (403, ["nosniff"])


@pytest.mark.parametrize("site, mode, dest, more, status", [
    ("same-origin", "cors", "empty", {}, 200), ("none", "navigate", "document", {}, 200), (None, None, None, {}, 200),
    ("same-site", "no-cors", "image", {}, 200), ("cross-site", "navigate", "document", {}, 200),
    ("cross-site", "no-cors", "image", {}, 403), ("cross-site", "no-cors", "script", {}, 403),
    ("cross-site", "navigate", "iframe", {}, 403), ("cross-site", None, None, {}, 403),
    ("cross-site", "cors", "empty", {"Origin": "https://other.example"}, 200),
    ("cross-site", "cors", "empty", {"Origin": "https://evil.example"}, 403),
])  # fmt: skip
def test_request_that_another_site_embeds_is_refused(pool, site, mode, dest, more, status):
    fetch = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    headers = {name: value for name, value in fetch.items() if value} | more
    with served(pool, allow_origin=("https://other.example",)) as client:
        assert client.get("/v1/models", headers=headers).status_code == status
    with served(pool, allow_origin=("*",)) as client:
        assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", r'{"\ud800": 1}'), ("/v1/chat/completions", r'{"\udfff": 1, "messages": []}'),
    ("/api/generate", r'{"prompt": "a", "settings": {"\ud800": 1}}'), ("/api/generate", r'{"\ud800": 1}'),
    ("/v1/completions", r'{"prompt": "a", "logit_bias": {"\ud800": 1}}'),
    ("/v1/completions", r'{"prompt": "a", "stream_options": {"\ud800": 1}, "stream": true}'),
    ("/v1/completions", r'{"prompt": "a", "runtime": "\ud800"}'),
    ("/v1/completions", r'{"prompt": 1, "model": "\ud800"}'),
    ("/v1/chat/completions", r'{"messages": [{"role": "\ud800", "content": "a"}]}'),
    ("/v1/chat/completions", r'{"messages": [{"role": "user", "content": "a", "\ud800": 1}]}'),
])  # fmt: skip
def test_name_with_half_a_surrogate_pair_is_400(client, path, body):
    answer = client.post(path, content=body)
    assert answer.status_code == 400 and answer.headers["content-type"] == "application/json", answer.text


def test_listen_connections_do_not_wait_for_acknowledgements():
    """Read from a connection that asyncio accepted on the socket, as uvicorn's are."""
    options = []

    async def accepted(reader, writer):
        connection = writer.get_extra_info("socket")
        options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect():
        with listen(Serving(port=0)) as listening:
            async with await asyncio.start_server(accepted, sock=listening):
                reader, writer = await asyncio.open_connection(*listening.getsockname())
                await reader.read()
                writer.close()

    asyncio.run(connect())
    assert len(options) == 1 and options[0]


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1", 200), ("127.0.0.1:8000", 200), ("localhost:9", 200), ("LOCALHOST", 200), ("[::1]:8000", 200),
    ("evil.example", 403), ("evil.example:8000", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403),
    ("", 403), ("192.168.1.5:8000", 403), ("[::1].evil.example", 403), ("[::1", 403), ("127.0.0.1:80:80", 403),
])  # fmt: skip
def test_guard_foreign_host_is_refused_on_loopback(client, host, status):
    assert client.get("/v1/models", headers={"Host": host}).status_code == status


def test_guard_any_host_is_accepted_off_loopback(pool):
    with served(pool, host="0.0.0.0", api_key="k") as client:
        answer = client.get("/v1/models", headers={"Host": "pi.local:8000", "Authorization": "Bearer k"})
        assert answer.status_code == 200


@pytest.mark.parametrize("origin, status", [
    (HERE, 200), ("http://127.0.0.1:9000", 403), ("https://evil.example", 403), ("null", 403), ("", 403),
    ("file://", 403), ("http://127.0.0.1:8000.evil.example", 403), ("http://[", 403),
])  # fmt: skip
def test_guard_foreign_origin_is_refused(client, origin, status):
    """Without CORS a page cannot read a response, but it could still make this machine work."""
    answer = client.post(
        "/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers={"Origin": origin, "Host": "127.0.0.1:8000"}
    )
    assert answer.status_code == status and "access-control-allow-origin" not in answer.headers


def test_guard_allowed_origin_gets_cors_headers(pool):
    page = "https://page.example"
    asks = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with served(pool, allow_origin=(page,), api_key="k") as client:
        before = client.options("/v1/completions", headers=asks)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == page
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        answer = client.get("/v1/models", headers={"Origin": page, "Authorization": "Bearer k"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == page
        refused = client.get("/v1/models", headers={"Origin": page})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == page
        other = client.options("/v1/completions", headers=asks | {"Origin": "https://evil.example"})
        assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
        assert client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_guard_api_key_is_required_everywhere_but_health(pool, site):
    def basic(text):
        return "Basic " + base64.b64encode(text.encode()).decode()

    wrong = ["", "Bearer", "Bearer s3cre", "Bearer s3cret2", "s3cret", "Bearer \xe9", "Basic s3cret", "Basic \xe9",
             basic("s3cret"), basic("s3cret:"), basic("me:s3cre"), "Digest s3cret"]  # fmt: skip
    for pages, good in ((None, ["Bearer s3cret", "bearer  s3cret"]), (site, ["Bearer s3cret", basic("me:s3cret")])):
        with served(pool, pages, api_key="s3cret") as client:
            for path in ("/v1/models", "/api/models", "/metrics", "/v1/completions", "/", "/nothing"):
                for header in (None, *wrong):
                    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
                    answer = client.get(path, headers=headers)
                    assert answer.status_code == 401, (path, header)
                    assert answer.headers["www-authenticate"].startswith("Basic" if pages else "Bearer")
            for header in good:
                assert client.get("/v1/models", headers={"Authorization": header}).status_code == 200
                assert client.get("/", headers={"Authorization": header}).status_code == (200 if pages else 404)
            assert client.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
            assert client.get("/api/models").json()["type"] == "error"
            assert client.get("/health").status_code == 200


def test_body_or_prompt_too_large_is_413(pool):
    with served(pool, max_body_bytes=1000, max_prompt_tokens=5) as client:
        assert client.post("/v1/completions", json={"prompt": "a" * 2000}).status_code == 413

        def pieces():
            for _ in range(100):
                yield b" " * 100

        for path in ("/v1/completions", "/api/generate"):
            answer = client.post(path, content=pieces())  # chunked: without a Content-Length
            assert answer.status_code == 413 and "1000 bytes" in answer.text
        answer = client.post("/v1/completions", json={"prompt": [5] * 6, "max_tokens": 1})
        assert answer.status_code == 413 and answer.json()["error"]["param"] == "prompt"
        assert client.post("/v1/completions", json={"prompt": [5] * 5, "max_tokens": 1}).status_code == 200


# ----------------------------------------------------------------------------- the queue


def test_queue_full_is_503_at_once():
    async def play():
        with gated(queue_size=2) as (app, gate, worker):
            running = RawRequest(app, "/v1/completions", LONG)
            await until(lambda: worker.busy)
            waiting = [RawRequest(app, "/v1/completions", LONG | {"max_tokens": 1}) for _ in range(2)]
            await until(lambda: worker.waiting == 2)
            late = RawRequest(app, "/v1/completions", LONG)
            await late.task
            assert late.status == 503 and "queue_full" in late.text
            assert 1 <= int(dict(late.sent[0]["headers"])[b"retry-after"]) <= 60
            gate.free.release(1000)
            await asyncio.gather(running.task, *(one.task for one in waiting))
            assert [one.status for one in (running, *waiting)] == [200] * 3
            again = RawRequest(app, "/v1/completions", LONG | {"max_tokens": 1})
            await again.task
            assert again.status == 200, "the queue is free again"

    asyncio.run(play())


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", LONG | {"stream": True}),
    ("/v1/completions", LONG),
    ("/v1/completions", LONG | {"n": 3, "prompt": [PROMPT, "Lily"]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "stream": True, "ignore_eos": True}),
    ("/api/generate", {"prompt": PROMPT, "settings": {"max_new_tokens": 100, "ignore_eos": True}}),
])  # fmt: skip
def test_client_disconnect_ends_its_text(path, body):
    async def play():
        with gated() as (app, gate, worker):
            one = RawRequest(app, path, body)
            gate.free.release(3)
            await until(lambda: gate.calls == 3)
            one.leave()
            await one.task
            gate.free.release(50)
            await until(lambda: not worker.busy)
            assert gate.calls <= 5, "it stopped after the current token"
            other = RawRequest(app, "/v1/completions", LONG | {"max_tokens": 2})
            await other.task
            assert other.status == 200, "and the model is free"

    asyncio.run(play())


def test_client_disconnect_in_the_queue_removes_its_job():
    async def play():
        with gated() as (app, gate, worker):
            first = RawRequest(app, "/v1/completions", LONG | {"max_tokens": 2})
            await until(lambda: worker.busy)
            second = RawRequest(app, "/v1/completions", LONG)
            await until(lambda: worker.waiting == 1)
            second.leave()
            await second.task
            assert worker.waiting == 0
            gate.free.release(1000)
            await first.task
            await until(lambda: not worker.busy)
            assert first.status == 200 and gate.calls == 2
            assert 'path="/v1/completions",status="499"} 1' in app.state.edgekit.metrics.text()

    asyncio.run(play())


def test_time_limit_is_504_or_an_error_event():
    async def play():
        with gated(time_limit=0.3) as (app, gate, worker):
            running = RawRequest(app, "/v1/completions", LONG)
            stream = RawRequest(app, "/v1/completions", LONG | {"stream": True})
            await asyncio.gather(running.task, stream.task)
            assert running.status == stream.status == 504 and "0.3 s" in running.text
            gate.free.release(1)
            await until(lambda: not worker.busy)
            gate.free.release(2)
            started = RawRequest(app, "/api/generate", {"prompt": PROMPT, "settings": {"max_new_tokens": 50}})
            await started.task
            assert started.status == 200 and '"type":"start"' in started.text
            last = json.loads(started.text.strip().split("\n\n")[-1][6:])
            assert last["type"] == "error" and "0.3 s" in last["message"]

    asyncio.run(play())


def test_body_incomplete_is_408_or_499():
    async def play():
        with gated(time_limit=0.2) as (app, gate, worker):
            slow, left = (RawRequest(app, "/v1/completions", LONG, whole=False) for _ in range(2))
            left.leave()
            await asyncio.gather(slow.task, left.task)
            assert slow.status == 408 and left.status == 499 and not worker.busy

    asyncio.run(play())


def test_worker_close_refuses_waiting_and_interrupt_ends_running():
    async def play():
        with gated() as (app, gate, worker):
            running = RawRequest(app, "/v1/completions", LONG | {"stream": True})
            gate.free.release(3)
            await until(lambda: gate.calls == 3)
            waiting = RawRequest(app, "/v1/completions", LONG)
            await until(lambda: worker.waiting == 1)
            worker.close()
            await waiting.task
            assert waiting.status == 503 and "stopping" in waiting.text and not running.task.done()
            gate.free.release(2)
            await until(lambda: gate.calls == 5)
            worker.interrupt()
            await running.task
            assert "the server is stopping" in running.text and running.text.endswith("data: [DONE]\n\n")
            late = RawRequest(app, "/v1/completions", LONG)
            await late.task
            assert late.status == 503

    asyncio.run(play())


def test_unexpected_exception_is_logged_and_the_server_continues(caplog):
    async def play():
        with gated() as (app, gate, worker):
            gate.free.release(1000)
            good, gate.forward = gate.forward, lambda tokens, every=False: 1 / 0
            bad = RawRequest(app, "/v1/completions", LONG)
            await bad.task
            assert bad.status == 500 and "division" not in bad.text and '"server_error"' in bad.text
            gate.forward = good
            fine = RawRequest(app, "/v1/completions", LONG | {"max_tokens": 2})
            await fine.task
            assert fine.status == 200

    asyncio.run(play())
    assert "ZeroDivisionError" in caplog.text


def test_queue_size_zero_accepts_sequential_requests(pool):
    """Once a response has arrived the worker is free, however soon the next request comes."""
    with served(pool, queue_size=0) as client:
        statuses = [
            client.post("/v1/completions", json={"prompt": "a", "max_tokens": 0}).status_code for _ in range(100)
        ]
        assert statuses == [200] * 100


def test_worker_runs_jobs_in_order():
    async def play():
        worker, order = ModelWorker(10), []
        worker.start()
        jobs = [worker.submit(lambda job, n=n: (order.append(n), job.emit(n))) for n in range(5)]
        for n, job in enumerate(jobs):
            assert await job.events.get() == n and isinstance(await job.events.get(), Done)
        assert order == list(range(5))
        worker.stop()
        with pytest.raises(RequestError, match="stopping"):
            worker.submit(lambda job: None)

    asyncio.run(play())


def test_metrics_count_requests_tokens_and_seconds(pool):
    parser = pytest.importorskip("prometheus_client.parser", reason="needs its parser")
    with served(pool) as client:
        usage = complete(client, prompt=PROMPT, max_tokens=7, temperature=0)["usage"]
        generate(client, prompt=PROMPT, settings={"max_new_tokens": 5, "temperature": 0})
        for path in ("/none", "/nothing", "/%22x%0a"):
            client.get(path)
        client.get("/v1/models", headers={"Host": "evil.example"})
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    response = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    requests = "edgekit_requests_total"
    assert response[requests, ("path", "/v1/completions"), ("status", "200")] == 1
    assert response[requests, ("path", "other"), ("status", "404")] == 3
    assert response[requests, ("path", "/v1/models"), ("status", "403")] == 1
    assert response[("edgekit_prompt_tokens_total",)] == 2 * usage["prompt_tokens"]
    assert response[("edgekit_new_tokens_total",)] == 12
    assert response["edgekit_texts_total", ("runtime", pool.first.runtime)] == 2
    assert response[("edgekit_queue_length",)] == 0
    for name in ("edgekit_first_token_seconds", "edgekit_decode_seconds"):
        assert response[(f"{name}_count",)] == response[f"{name}_bucket", ("le", "+Inf")] == 2
        assert response[(f"{name}_sum",)] > 0


# ----------------------------------------------------------------------------- several models


class Counted:
    """A stand-in for a loaded model that records when it is closed."""

    def __init__(self, tokenizer, closed, key):
        self.tokenizer, self.runtime, self.closed, self.key = tokenizer, self, closed, key
        self.vocab_size, self.context_length = 8064, 512

    def close(self):
        self.closed.append(self.key)


def test_pool_closes_the_least_recently_used_model(monkeypatch, bundled, model):
    opened, closed = [], []

    def load(path, *, runtime, **_):
        opened.append((path, runtime))
        return Counted(model.tokenizer, closed, (path, runtime))

    monkeypatch.setattr(pool_module, "load", load)
    pool = ModelPool([bundled] * 6)
    assert list(pool.entries) == ["story-7m", *(f"story-7m-{n}" for n in range(2, 7))]
    entries = list(pool.entries.values())
    for entry in entries[:4]:
        pool.open(entry, "onnx")
    pool.open(entries[0], "onnx")  # used recently
    assert len(opened) == 4 and not closed
    pool.open(entries[4], "onnx")
    assert len(closed) == 1 and len(opened) == 5
    pool.open(entries[0], "onnx")
    assert len(opened) == 5, "the least recently used one was closed"
    pool.open(entries[0], "torch")
    assert len(opened) == 6 and len(closed) == 2, "the same model on another runtime is another pair"
    pool.close()
    assert len(closed) == 6


def test_pool_two_models_are_chosen_by_id(bundled, stories, model):
    pool = ModelPool([bundled, stories], runtime="onnx")
    with served(pool) as client:
        assert [one["id"] for one in client.get("/api/models").json()["models"]] == ["story-7m", "hf"]
        other = edgekit.load(stories, runtime="onnx")
        for id, loaded in (("story-7m", model), ("hf", other), ("story-7m", model)):
            expected = loaded.generate(PROMPT, max_new_tokens=8, temperature=0).text
            response = complete(client, model=id, prompt=PROMPT, max_tokens=8, temperature=0)
            assert response["choices"][0]["text"] == expected and response["model"] == id
            *_, end = generate(client, model=id, prompt=PROMPT, settings={"max_new_tokens": 8, "temperature": 0})
            assert end["text"] == expected
        unknown = client.post("/v1/completions", json={"model": "gpt-4", "prompt": PROMPT})
        assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "model_not_found"
        assert complete(client, prompt=PROMPT, max_tokens=1)["model"] == "story-7m", "the first, where none is named"


def test_pool_ids_are_stems_of_the_files(tmp_path, stories, monkeypatch):
    pytest.importorskip("gguf")
    file = stories.parent / "stories260K.f32.gguf"
    link = tmp_path / os.fsdecode(b"caf\xe9 v1.2.gguf")
    link.symlink_to(file)
    monkeypatch.chdir(stories)
    pool = ModelPool([file, file, link, Path(".")])
    assert list(pool.entries) == ["stories260K.f32", "stories260K.f32-2", "caf\ufffd v1.2", "hf"]
    with served(pool) as client:
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == list(pool.entries)


@pytest.mark.parametrize("suffix, runtimes", [
    ("", ["native", "onnx", "llamacpp", "torch"]),
    (".gguf", ["native", "llamacpp", "torch", "onnx"]),
    (".onnx", ["onnx"]),
])  # fmt: skip
def test_runtimes_for_each_format_lists_usable_runtimes(tmp_path, suffix, runtimes):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"") if suffix else path.mkdir()
    assert pool_module.runtimes_for(path) == runtimes


def test_pool_runtime_without_its_package_is_not_listed(monkeypatch, bundled):
    there = pool_module.importlib.util.find_spec
    monkeypatch.setattr(pool_module.importlib.util, "find_spec", lambda n: None if n in ("torch", "onnx") else there(n))
    assert set(ModelPool([bundled]).first.runtimes) <= {"native", "llamacpp"}
    assert (
        pool_module.missing_for(Path("m.onnx"), "onnx") is None and pool_module.missing_for(bundled, "onnx") == "onnx"
    )


# ----------------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "pages"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>here</title>")
    for name in ("a.js", "b.mjs", "c.css", "d.svg", "e.wasm", "f.unknown", "sub/g.js"):
        (folder / name).write_text(name)
    (folder.parent / "outside").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "outside")
    return folder


def test_pages_are_served_with_types_and_etags(pool, site):
    with served(pool, site) as client:
        assert "here" in client.get("/").text
        for path, kind in (
            ("/", "text/html"), ("/a.js", "text/javascript"), ("/b.mjs", "text/javascript"), ("/c.css", "text/css"),
            ("/d.svg", "image/svg+xml"), ("/e.wasm", "application/wasm"), ("/f.unknown", "application/octet-stream"),
            ("/sub/g.js", "text/javascript"),
        ):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code == 200 and answer.headers["content-type"].split(";")[0] == kind, path
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304 and not again.content
        for path in ("/../outside", "/%2e%2e/outside", "/sub/../../outside", "/..%2foutside", "//etc/passwd",
                     "/link", "/%00", "/sub"):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code in (404, 307) and "secret" not in answer.text, path
        assert client.post("/").status_code == 405
        assert complete(client, prompt="a", max_tokens=1)["choices"], "the APIs are there too"
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_playground_page_loads_local_files_only(pool):
    if not (web.PAGES / "index.html").is_file():
        pytest.skip("no pages in this checkout")
    with served(pool, web.pages()) as client:
        page = client.get("/").text
        for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
            assert not name.startswith(("http:", "https:", "//")), name
            assert client.get("/" + name.removeprefix("./")).status_code == 200, name


def test_pages_missing_raises_file_error(monkeypatch, tmp_path):
    monkeypatch.setattr(web, "PAGES", tmp_path)
    with pytest.raises(edgekit.EdgekitError, match="install edgekit again"):
        web.pages()


# ----------------------------------------------------------------------------- settings


@pytest.mark.parametrize("host, good", [
    ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("localhost", True),
    ("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.5", False), ("pi.local", False),
    ("localhost.evil", False),
])  # fmt: skip
def test_serving_reachable_host_needs_a_key(host, good):
    if good:
        Serving(host=host).check_reach()
    else:
        with pytest.raises(UsageError, match="EDGEKIT_API_KEY"):
            Serving(host=host).check_reach()
    Serving(host=host, api_key="k").check_reach()


@pytest.mark.parametrize("wrong", [
    {"port": 65536}, {"port": -1}, {"api_key": ""}, {"api_key": "a b"}, {"api_key": "\xe9"}, {"queue_size": -1},
    {"allow_origin": ("example.org",)}, {"allow_origin": ("https://a/b",)}, {"time_limit": 0}, {"time_limit": math.nan},
    {"max_prompt_tokens": 0}, {"max_body_bytes": 1}, {"grace": -1},
])  # fmt: skip
def test_serving_setting_out_of_range_raises(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Serving(**wrong)


def test_help_imports_nothing_heavy():
    script = (
        "import sys, contextlib, io\nfrom edgekit.cli.serve import COMMAND\n"
        "from edgekit.cli.demo import COMMAND as demo\n"
        "for one in (COMMAND, demo):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit): one(['--help'])\n"
        "    assert 'curl' in out.getvalue() or 'edgekit demo' in out.getvalue()\n"
        "print({m.split('.')[0] for m in sys.modules} & {'numpy', 'starlette', 'uvicorn', 'anyio', 'onnxruntime'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stdout + done.stderr
