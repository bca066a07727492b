"""The pages in a real browser: the playground on `edgekit demo`, and exported pages on a phone, without a network too.

Chromium comes from the system (`apt-get install chromium`), Playwright from pip; without either, these tests skip.
"""

import contextlib
import functools
import http.server
import shutil
import subprocess
import sys
import threading

import pytest
from helpers import write_model
from page_site import artefact, site
from test_chat import TINY
from test_chat_template import files_with

import edgekit
from edgekit.web.export import export_web

sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
expect = sync_api.expect
PATIENCE = 120_000  # milliseconds: for a busy machine
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    executable = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if executable is None:
        pytest.skip("needs a system Chromium")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


@contextlib.contextmanager
def running(*models):
    """The address of an `edgekit demo` with these models."""
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package, reason="needs edgekit-lm[serve]")
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "demo",
        "--no-open",
        "--port",
        "0",
        "--threads",
        "1",
    ]
    for model in models:
        command += ["-m", str(model)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    address = process.stdout.readline().strip()
    try:
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def demo():
    """The address of a running `edgekit demo` with two formats of one model."""
    with running(artefact("q8_0"), artefact("q4_0")) as address:
        yield address


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class Page:
    """A page, its errors and its requests."""

    def __init__(self, browser, address, **how):
        self.context = browser.new_context(**how)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors, self.requests = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.has("body[data-ready]")

    def has(self, selector, text=None):
        where = self.page.locator(selector)
        if text is None:
            expect(where).to_be_attached(timeout=PATIENCE)
        else:
            expect(where).to_contain_text(text, timeout=PATIENCE)

    def set(self, **values):
        """A setting's number; its group is folded on a phone."""
        self.page.evaluate("document.getElementById('settings').open = true")
        for name, value in values.items():
            self.page.fill(f"#set-{name}", str(value))

    def run(self, status):
        self.page.click("#run")
        self.has("#status", status)
        expect(self.page.locator("#stop")).to_be_hidden(timeout=PATIENCE)

    def stop_at(self, selector, with_escape=False):
        """Stop as soon as this element has a text, from inside the page: the model may be faster than this process."""
        self.page.evaluate(STOP_AT, [selector, with_escape])

    def text(self, selector):
        return self.page.locator(selector).text_content()

    def close(self, address):
        self.context.close()
        assert not self.errors and all(url.startswith(address) for url in self.requests)


STOP_AT = """([selector, withEscape]) => new MutationObserver((_, it) => {
  if (!document.querySelector(selector)?.textContent) return;
  it.disconnect();
  if (withEscape) document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  else document.getElementById("stop").click();
}).observe(document.getElementById("panel"), { childList: true, subtree: true, characterData: true })"""
SETTINGS = {"temperature": 0.8, "top_p": 0.7, "repetition_penalty": 1.2}


def generated(kind, prompt="Once upon a time", **settings):
    return edgekit.load(artefact(kind), threads=1).generate(prompt, **SETTINGS | settings)


@pytest.mark.slow
def test_playground_in_a_browser(browser, demo):
    it = Page(browser, demo, viewport={"width": 1280, "height": 860}, color_scheme="dark")
    page = it.page
    # Generate, with a prompt that must not be taken for markup.
    prompt = 'She wrote <img src=x onerror="document.title=1"> & laughed'
    it.set(seed=7, max_new_tokens=24)
    page.fill("#prompt", prompt)
    it.run("24 tokens;")
    assert it.text(".prose .given") == prompt and page.locator("#panel img").count() == 0
    assert it.text(".prose .text") == generated("q8_0", prompt, seed=7, max_new_tokens=24).text
    assert "tokens/s" in it.text(".figures") and "ms" in it.text(".figures") and page.title() == "edgekit playground"
    # Continuing uses the generated ids.
    page.get_by_role("button", name="Continue").click()
    it.has(".figures dd >> nth=2", "24")
    expect(page.locator("#stop")).to_be_hidden(timeout=PATIENCE)
    first = generated("q8_0", prompt, seed=7, max_new_tokens=24)
    assert it.text(".prose .text") == generated("q8_0", [*first.prompt, *first.tokens], seed=7, max_new_tokens=24).text
    # Streaming, and stopping from the keyboard.
    page.fill("#prompt", "Once upon a time")
    it.set(max_new_tokens=480)
    it.stop_at(".story .text", with_escape=True)
    page.press("#prompt", "Control+Enter")
    it.has("#status", "Stopped after")
    expect(page.locator("#run")).to_be_visible()
    assert 0 < int(it.text(".figures dd >> nth=2")) < 480
    # The server reports a setting out of range in one line.
    it.set(top_p=3, max_new_tokens=12)
    page.click("#run")
    it.has("#error", "top_p must be a number from 0 to 1, not 3")
    it.errors.clear()  # browsers log a status of 400
    it.set(top_p=0.7)

    # Explore: by keyboard to the tabs and along the tokens.
    page.focus("#tab-generate")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-explore").get_attribute("aria-selected") == "true"
    it.run("Choose a token")
    expected = generated("q8_0", seed=7, max_new_tokens=12, logprobs=10)
    chips = page.locator(".chips button")
    assert chips.count() == len(expected.tokens)
    chips.first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    rows = page.locator(".detail tbody tr")
    assert 10 <= rows.count() <= 11 and page.locator(".detail .taken").count() == 1
    shown = [
        float(cell.split()[0]) for cell in rows.locator("td:nth-child(2)").all_text_contents()[:10] if "<" not in cell
    ]
    known = [100 * 2.718281828459045**logprob for _, logprob in expected.logprobs[4].top]
    assert shown == pytest.approx(known[: len(shown)], abs=0.06)
    # Branching: the tokens before it stay, another one replaces it, the rest is new.
    place = next(i for i, (id, _) in enumerate(expected.logprobs[4].top) if id != expected.tokens[4])
    before = chips.all_text_contents()
    rows.nth(place).get_by_role("button").click()
    it.has("#status", "Branched at token 5")
    after = chips.all_text_contents()
    assert after[:4] == before[:4] and after[4] != before[4] and chips.nth(4).get_attribute("class") == "chip branch"
    branch = [*expected.prompt, *expected.tokens[:4], expected.logprobs[4].top[place][0]]
    assert len(after) == 5 + len(generated("q8_0", branch, seed=7, max_new_tokens=7).tokens)

    # Sweep: one seed, three temperatures.
    page.click("#tab-sweep")
    page.fill("#temperatures", "0, 0.8 1.5")
    it.run("3 texts, seed 7")
    for i, temperature in enumerate((0, 0.8, 1.5)):
        text = generated("q8_0", seed=7, max_new_tokens=12, temperature=temperature).text
        assert page.locator(".columns .prose").nth(i).text_content() == "Once upon a time" + text

    # Compare: the texts of two formats, and where they differ.
    page.click("#tab-versus")
    it.set(max_new_tokens=40)
    page.select_option("#side-B", label=f"{artefact('q4_0').stem} · edgekit's engine")
    it.run("Both are done")
    texts = [generated(kind, seed=7, max_new_tokens=40) for kind in ("q8_0", "q4_0")]
    for i, known in enumerate(texts):
        assert page.locator(".columns .prose").nth(i).text_content() == "Once upon a time" + known.text
    parted = next((i for i, (a, b) in enumerate(zip(texts[0].tokens, texts[1].tokens, strict=False)) if a != b), None)
    assert page.locator("mark").count() == (0 if parted is None else 2)
    it.has(".verdict", "The same 40 tokens" if parted is None else f"first differ at token {parted + 1}:")
    # Nothing is cut off horizontally, and every control has a name.
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 860})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(UNNAMED) == 0
    it.close(demo)


def answered(messages, **settings):
    """What the model answers to a conversation."""
    return edgekit.load(artefact("q8_0"), threads=1).chat(messages, **SETTINGS | settings).drain()


UNNAMED = "[...document.querySelectorAll('input, select, textarea, button')].filter((e) => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel).length"  # noqa: E501


@pytest.mark.slow
def test_playground_chat_in_a_browser(browser, tmp_path):
    without = write_model(tmp_path / "base", TINY, files=files_with(None))
    with running(without, artefact("q8_0")) as address:
        it = Page(browser, address + "#chat", viewport={"width": 1280, "height": 860})
        page = it.page
        # The first model has no chat template; with the second the mode is offered.
        expect(page.locator("#tab-chat")).to_be_hidden()
        assert page.locator("#tab-generate").get_attribute("aria-selected") == "true"
        page.select_option("#model", label=artefact("q8_0").stem)
        page.click("#tab-chat")
        assert page.input_value("#prompt") == "" and page.evaluate("location.hash") == "#chat"
        # Two turns with a system prompt; markup stays text.
        page.click(".system summary")
        page.fill("#system", "Be brief.")
        it.set(seed=7, max_new_tokens=20)
        talk = [{"role": "system", "content": "Be brief."}]
        for text in ("Hello <img src=x onerror='document.title=1'> & you", "Go on"):
            page.fill("#prompt", text)
            page.press("#prompt", "Enter")
            it.has("#status", "tokens,")
            expect(page.locator("#stop")).to_be_hidden(timeout=PATIENCE)
            talk.append({"role": "user", "content": text})
            talk.append({"role": "assistant", "content": answered(talk, seed=7, max_new_tokens=20).text})
            shown = page.locator(".talk .prose").all_text_contents()
            assert shown == [message["content"] for message in talk[1:]]
            assert page.input_value("#prompt") == ""
        assert page.locator("#panel img").count() == 0 and page.title() == "edgekit playground"
        # Each mode keeps its own text.
        page.fill("#prompt", "a draft")
        page.click("#tab-explore")
        assert page.input_value("#prompt") == "Once upon a time"
        page.click("#tab-chat")
        assert page.input_value("#prompt") == "a draft" and page.locator(".talk li").count() == 4
        # An empty message, and one that the server refuses, which goes back into its box.
        page.fill("#prompt", " ")
        page.click("#run")
        it.has("#error", "The message is empty")
        it.set(top_p=3)
        page.fill("#prompt", "again")
        page.click("#run")
        it.has("#error", "top_p must be a number from 0 to 1, not 3")
        it.errors.clear()  # browsers log a status of 400
        assert page.input_value("#prompt") == "again" and page.locator(".talk li").count() == 4
        # Stopping: what was written stays. Shift and Enter is a new line.
        it.set(top_p=0.7, max_new_tokens=450)
        page.press("#prompt", "Shift+Enter")
        page.type("#prompt", "and again")
        it.stop_at(".talk li:nth-child(6) .prose", with_escape=True)
        page.press("#prompt", "Enter")
        it.has("#status", "Stopped. What was written stays")
        assert page.locator(".talk li:nth-child(5) .prose").text_content() == "again\nand again"
        # A conversation that the context does not hold: its oldest messages are left out.
        it.set(max_new_tokens=12)
        page.fill("#prompt", "word " * 430)
        page.click("#run")
        it.has(".talk .note", "The context is full")
        expect(page.locator("#stop")).to_be_hidden(timeout=PATIENCE)
        page.get_by_role("button", name="New conversation").click()
        assert page.locator(".talk li").count() == 0 and it.text("#status") == "A new conversation."
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 860})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(UNNAMED) == 0
        # A model without a template ends the mode.
        page.select_option("#model", label="base")
        expect(page.locator("#tab-chat")).to_be_hidden()
        assert page.locator("#tab-generate").get_attribute("aria-selected") == "true"
        it.close(address)


def exported_text(prompt="Once upon a time", **settings):
    return generated("q4_0", prompt, **settings).text


@pytest.mark.slow
def test_exported_page_works_offline_on_a_phone(browser):
    with served(site()) as address:
        it = Page(browser, address, **PHONE)
        it.has("#status", "works offline")
        it.set(seed=7, max_new_tokens=24)
        it.page.tap("#run")
        it.has("#status", "24 tokens;")
        assert it.text(".prose .text") == exported_text(seed=7, max_new_tokens=24)
        assert "tokens/s" in it.text(".figures")
        assert it.page.evaluate("() => document.documentElement.scrollWidth") <= 390
        # Stopping: the worker sees it between two tokens.
        it.set(max_new_tokens=400, temperature=2)
        it.stop_at(".story .text")
        it.page.tap("#run")
        it.has("#status", "Stopped after")
        # One build of the engine, the one with relaxed SIMD, and one model.
        builds = {url for url in it.requests if url.endswith((".wasm", ".gguf"))}
        assert sorted(url.rsplit("/")[-1].rsplit("-", 1)[0] for url in builds) == ["engine", "story-7m-q4_0"]
        assert any(url.endswith("engine-relaxed.wasm") for url in builds)
        stored = it.page.evaluate(STORED)
        assert len(stored) == 2 and sorted(stored["edgekit-assets-/"]) == sorted(builds)
        assert not [url for urls in stored.values() for url in urls if url.endswith(("simd.wasm", "scalar.wasm"))]
    # The server is gone.
    it.page.reload()
    it.has("#status", "works offline")
    it.set(seed=7, max_new_tokens=24)
    it.page.tap("#tab-explore")
    it.page.tap("#run")
    it.has("#status", "Choose a token")
    assert it.page.locator(".chips button").count() == 24
    # A conversation.
    it.page.tap("#tab-chat")
    talk = []
    for text in ("Tell me a story.", "Go on!"):
        it.page.fill("#prompt", text)
        it.page.tap("#run")
        it.has("#status", "tokens,")
        expect(it.page.locator("#stop")).to_be_hidden(timeout=PATIENCE)
        talk.append({"role": "user", "content": text})
        expected = edgekit.load(artefact("q4_0"), threads=1).chat(talk, **SETTINGS, seed=7, max_new_tokens=24).drain()
        talk.append({"role": "assistant", "content": expected.text})
        assert it.page.locator(".talk .prose").all_text_contents() == [message["content"] for message in talk]
    assert it.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    it.close(address)


STORED = """async () => {
  const names = await caches.keys();
  const urls = async (name) => (await (await caches.open(name)).keys()).map(({ url }) => url);
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await urls(name)])));
}"""


@pytest.mark.slow
def test_exported_page_compares_two_models_as_python(browser):
    with served(site()) as address:
        it = Page(browser, address + "#versus", viewport={"width": 1280, "height": 860})
        it.has("#status", "works offline")
        it.set(seed=7, max_new_tokens=40)
        it.run("Both are done")
        texts = it.page.locator(".columns .prose").all_text_contents()
        expected = [generated(kind, seed=7, max_new_tokens=40).text for kind in ("q4_0", "q8_0")]
        assert texts == ["Once upon a time" + text for text in expected]
        it.close(address)


@pytest.mark.slow
def test_exported_page_opens_other_files_and_names_what_is_wrong(browser, tmp_path):
    whole = artefact("q8_0").read_bytes()
    bad = {
        "cut.gguf": (whole[:3_000_000], "cut off"),
        "head.gguf": (whole[:100], "head.gguf cannot be opened: the file claims 48 keys"),
        "empty.gguf": (b"", "empty"),
        "picture.gguf": (b"\x89PNG\r\n\x1a\n" + bytes(200_000), "not a GGUF file"),
        "other.gguf": (whole.replace(b"\x05" + bytes(7) + b"llama", b"\x05" + bytes(7) + b"mamba", 1), "mamba"),
    }  # fmt: skip
    (tmp_path / "my story.gguf").write_bytes(whole)
    (tmp_path / "page").symlink_to(site())
    with served(tmp_path) as address:
        it = Page(browser, address + "page/", **PHONE)
        it.has("#status", "works offline")
        it.page.evaluate("document.getElementById('other').open = true")
        for name, (data, message) in bad.items():
            (tmp_path / name).write_bytes(data)
            it.page.set_input_files("#file", tmp_path / name)
            it.has("#error", message)
            assert "\n" not in it.text("#error") and it.page.locator("#model option").count() == 2
        # The page goes on with its own model, and with a good file.
        it.set(seed=7, max_new_tokens=12)
        it.page.tap("#run")
        it.has("#status", "12 tokens;")
        assert it.text(".prose .text") == exported_text(seed=7, max_new_tokens=12)
        it.page.set_input_files("#file", tmp_path / "my story.gguf")
        it.has("#status", "my story is open: 7.2 million parameters, 8.0 MB")
        it.set(seed=7, max_new_tokens=12, **SETTINGS)
        it.page.tap("#run")
        it.has("#status", "12 tokens;")
        assert it.text(".prose .text") == generated("q8_0", seed=7, max_new_tokens=12).text
        # By address: in the field, and in the page's own.
        (tmp_path / "a second.gguf").write_bytes(whole)
        it.page.fill("#address", address + "a%20second.gguf")
        it.page.click("#fetch button")
        it.has("#status", "a second is open")
        assert it.page.locator("#model option").count() == 4
        it.page.fill("#address", address + "none.gguf")
        it.page.click("#fetch button")
        it.has("#error", f"{address}none.gguf cannot be downloaded: status 404")
        it.errors.clear()
        it.page.goto(address + "page/?model=../my%20story.gguf")
        it.has("#status", "my story is open")
        it.set(seed=7, max_new_tokens=12, **SETTINGS)
        it.page.tap("#run")
        it.has("#status", "12 tokens;")
        assert it.text(".prose .text") == generated("q8_0", seed=7, max_new_tokens=12).text
        it.page.goto(address + "page/?model=" + address + "cut.gguf")
        it.has("#error", "cut off")
        it.close(address)


@pytest.mark.slow
def test_exported_page_replaces_an_older_version(browser, tmp_path):
    folder = tmp_path / "page"
    export_web([artefact("q8_0")], folder)
    with served(folder) as address:
        it = Page(browser, address, **PHONE)
        it.has("#status", "works offline")
        before = it.page.evaluate(STORED)
        it.page.evaluate("() => caches.open('edgekit-assets')")  # as edgekit 0.3 left one
        export_web([artefact("q4_0")], folder, force=True)
        it.page.reload()  # still the old page, while the new one is fetched; browsers look a while after a visit
        it.has("#model option", f"{artefact('q8_0').stem} (q8_0)")
        it.page.evaluate("async () => (await navigator.serviceWorker.getRegistration()).update()")
        for _ in range(20):  # it takes over once no page of the old one is open, a moment later
            it.page.goto("about:blank")
            it.page.wait_for_timeout(500)
            it.page.goto(address)
            it.has("#status", "works offline")
            if "q4_0" in it.text("#model option"):
                break
        after = it.page.evaluate(STORED)
        assert len(after) == 2 and set(after) & set(before) == {"edgekit-assets-/"}
        assert len(after["edgekit-assets-/"]) == 2
        assert [url for url in after["edgekit-assets-/"] if "q4_0" in url]
        assert not [url for url in after["edgekit-assets-/"] if "q8_0" in url]
        it.close(address)
