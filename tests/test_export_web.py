"""`edgekit export-web`: the folder, and that its model gives the same tokens in WebAssembly as in Python."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import STENTOR, tokenmonster_files, write_model
from page_site import ROOT, artefact, site
from test_chat_template import LLAMA2, SMOLLM2

import edgekit
from edgekit.cli import export_web as command
from edgekit.errors import CheckpointError, FileError, SettingError, UsageError, VocabularyError
from edgekit.formats import checkpoint, hub
from edgekit.inference.generate import token_logprob
from edgekit.utils import registry
from edgekit.web import export as export_web
from edgekit.web import npm as export_web_npm

PAGES = ROOT / "edgekit" / "web" / "pages"
MENU = {"temperature": 0.9, "top_p": 0.9, "top_k": 0, "min_p": 0.02, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def folder():
    return site()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An npm package with the right names and tiny files; packing the real one takes a second."""
    place = tmp_path_factory.mktemp("package")
    (place / "package.json").write_text('{"name": "onnxruntime-web", "version": "1.30.0"}')
    (place / "dist").mkdir()
    for names in export_web_npm.NEEDED.values():
        for name in names:
            (place / "dist" / name).write_bytes(name.encode())
    return place


def listed(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- the folder --------------------------------------------------------------------------------------------------


def test_service_worker_lists_every_file(folder):
    script = (folder / "sw.js").read_text()
    found = json.loads(re.search(r"^const SITE = (.*);$", script, re.MULTILINE)[1])
    told = [*found["shell"], *found["assets"]]
    left = listed(folder) - set(told) - {"sw.js", "index.html", "package.json", "ort/1.30.0/NOTICE"}
    assert not left and "./" in told and len(told) == len(set(told))
    assert {path for path in told if path != "./"} <= listed(folder)
    assert re.fullmatch("[0-9a-f]{12}", found["version"])


def test_large_files_have_their_hash_in_the_name(folder):
    described = json.loads((folder / "site.json").read_text())
    large = [(model["file"], model["bytes"]) for model in described["models"]]
    large += [(one["wasm"], one["bytes"]) for one in described["runtimes"].values()]
    assert len(large) == 3
    for name, size in large:
        data = (folder / name).read_bytes()
        assert len(data) == size and hashlib.sha256(data).hexdigest()[:10] in name
        assert size < export_web.LIMIT


def test_modules_import_local_files_only(folder):
    for path in [*folder.glob("*.js"), *(folder / "core").glob("*.js"), *PAGES.glob("*.js")]:
        for name in re.findall(r'^(?:import|export)\b[^"]*?from "([^"]+)";$', path.read_text(), re.MULTILINE):
            assert name.startswith("./") and (path.parent / name).is_file(), f"{path.name} imports {name}"
    for path in [*PAGES.rglob("*.js"), *PAGES.glob("*.html"), *PAGES.glob("*.css"), *PAGES.glob("*.webmanifest")]:
        code = re.sub(r"^//.*$", "", path.read_text(), flags=re.MULTILINE)
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write", code), path.name
    page = (folder / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (folder / name).is_file(), name


def test_export_default_type_is_fp16_up_to_the_limit(folder, small, tmp_path, monkeypatch):
    exported = export_web.export_web([None], tmp_path / "a", onnxruntime_web=small, webgpu=True)
    assert [model["format"] for model in exported.models] == ["onnx fp16"]
    assert (tmp_path / "a" / exported.models[0]["file"]).read_bytes() == artefact("fp16").read_bytes()
    later = next((tmp_path / "a").rglob("*asyncify*.wasm.gz"))
    assert exported.first_visit == exported.total - later.stat().st_size
    monkeypatch.setattr(export_web, "LIMIT", 14_000_000)
    exported = export_web.export_web([None], tmp_path / "b", onnxruntime_web=small)
    assert [model["format"] for model in exported.models] == ["onnx int8_rows"]
    assert (tmp_path / "b" / exported.models[0]["file"]).read_bytes() == artefact("int8_rows").read_bytes()


def test_export_equal_names_get_distinct_ids(folder, small, tmp_path):
    onnx = pytest.importorskip("onnx")
    files = [tmp_path / name / "model.onnx" for name in ("a", "b")]
    for path in files:
        path.parent.mkdir()
        shutil.copy(artefact("int8_rows"), path)
    other = onnx.load(files[1])
    other.doc_string = "another one"
    onnx.save(other, files[1])
    exported = export_web.export_web([files[0], files[1], files[0]], tmp_path / "out", onnxruntime_web=small)
    assert [model["id"] for model in exported.models] == ["model-int8_rows", "model-int8_rows-2"]
    assert len(list((tmp_path / "out" / "models").iterdir())) == 2


# ---- its model ---------------------------------------------------------------------------------------------


def test_export_fp16_tokens_equal_the_model(folder):
    asked = {**MENU, "seed": 5, "max_new_tokens": 60}
    expected = edgekit.load().generate("The old fisherman", **asked)
    assert edgekit.load(artefact("fp16")).generate("The old fisherman", **asked).tokens == expected.tokens


def test_export_int8_rows_error_is_half_a_step_at_most(folder):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(artefact("int8_rows")).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    half = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(artefact("fp16")).graph.initializer}
    matrices = [name for name, values in stored.items() if values.dtype == np.int8]
    assert len(matrices) == 25  # the embedding, and four in each of six layers
    own = checkpoint.open_folder(hub.BUNDLED).float32("model.embed_tokens.weight")
    np.testing.assert_array_equal(half["model.embed_tokens.weight"].astype(np.float32), own)
    for name in matrices:
        values, scale = half[name].astype(np.float32), stored[name + "_scale"]
        axis = 1 if name == "model.embed_tokens.weight" else 0
        np.testing.assert_allclose(scale, np.abs(values).max(axis=axis, keepdims=True) / 127, rtol=1e-6)
        assert (np.abs(stored[name] * scale - values) <= scale * 0.5001).all()
    receipt = json.loads(registry.load("converters", "onnx").describe(artefact("int8_rows"))[0]["edgekit.receipt"])
    assert receipt["quant"] == "int8_rows" and receipt["figures"]["mean_kl"] < 0.002


@pytest.mark.parametrize("kind", ["fp16", "int8_rows"])
def test_webassembly_tokens_equal_python(folder, kind):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node 18 or newer")
    model = edgekit.load(artefact(kind), threads=1)
    requests = [
        {"prompt": "Once upon a time", "settings": {**MENU, "seed": 7, "max_new_tokens": 40}},
        # The page sets every setting; Python has its own default penalty for TokenMonster models.
        {"prompt": "“Ça va?” she said", "settings": {**MENU, "temperature": 0, "max_new_tokens": 12}, "top": 10},
        {"prompt": "Science is", "settings": {**MENU, "seed": 99, "max_new_tokens": 12, "top_k": 40}, "top": 10},
    ]
    asked = "\n".join(json.dumps(request) for request in requests)
    done = subprocess.run(
        [node, str(ROOT / "tests" / "export_web.mjs"), str(folder), f"story-7m-{kind}"],
        input=asked, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for request, line in zip(requests, done.stdout.splitlines(), strict=True):
        start, *tokens, end = json.loads(line)
        expected = model.generate(request["prompt"], logprobs=10, **request["settings"])
        assert start["tokens"] == expected.prompt
        assert "".join(start["pieces"]) == unicodedata.normalize("NFD", request["prompt"])
        assert end["tokens"] == expected.tokens == [token["id"] for token in tokens]
        assert end["text"] == expected.text == "".join(token["text"] for token in tokens)
        assert end["finish_reason"] == expected.finish_reason and end["tokens_per_second"] > 0
        if not request.get("top"):
            continue
        for token, known in zip(tokens, expected.logprobs, strict=True):
            assert token["before"] == pytest.approx(np.exp(known.logprob), rel=1e-3)
            assert {one["id"] for one in token["top"][:5]} <= {id for id, _ in known.top}
            assert token["after"] == 1 if not request["settings"]["temperature"] else 0 < token["after"] <= 1
            assert sum(one["after"] for one in token["top"]) <= 1 + 1e-9
    # A branch: the ids are used as they are, the probabilities are those of a forward pass over them.
    ids = [*model.encode("Once upon a time"), 5, 9]
    model.runtime.rewind(0)
    best = token_logprob(model.runtime.forward(ids), 0, 1).top[0][0]
    assert model.generate(ids, temperature=0, max_new_tokens=1).tokens == [best]


def test_webassembly_conversation_equals_python(folder):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node 18 or newer")
    model = edgekit.load(artefact("fp16"), threads=1)
    settings = {**MENU, "seed": 7, "max_new_tokens": 30}
    talk = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a time"},
            {"role": "user", "content": "Go on! "}]  # fmt: skip
    requests = [talk[:1], talk, [{"role": "system", "content": "Be brief."}, *talk]]
    asked = "\n".join(json.dumps({"messages": messages, "settings": settings}) for messages in requests)
    done = subprocess.run(
        [node, str(ROOT / "tests" / "export_web.mjs"), str(folder), "story-7m-fp16"],
        input=asked, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for messages, line in zip(requests, done.stdout.splitlines(), strict=True):
        start, *_, end = json.loads(line)
        expected = model.chat(messages, **settings).drain()
        assert (start["tokens"], start["dropped"]) == (expected.prompt, 0)
        assert (end["tokens"], end["text"], end["finish_reason"]) == (
            expected.tokens, expected.text, expected.finish_reason)  # fmt: skip


def exported(small, tmp_path, more=None, **config):
    """An export of a tiny model with these files; returns its entry and the notes."""
    files = tokenmonster_files((ROOT / "training" / "recipes" / "story-8000.vocab").read_bytes(), **config)
    files |= {name: json.dumps(value).encode() for name, value in (more or {}).items()}
    shape = dataclasses.replace(STENTOR, hidden_size=32, intermediate_size=64, num_hidden_layers=1, head_dim=8)
    model = write_model(tmp_path / "tiny", shape, files=files)
    done = export_web.export_web([model], tmp_path / "out", quants=["fp32"], onnxruntime_web=small)
    (entry,) = json.loads((tmp_path / "out" / "site.json").read_text())["models"]
    return entry, done.notes


def test_export_chat_template_becomes_strings(small, tmp_path):
    config = {"eos_token": "<|im_end|>", "chat_template": SMOLLM2}
    entry, notes = exported(small, tmp_path, **config)
    assert entry["chat"]["ends"] == [8000] and "named SmolLM" in entry["chat"]["start"]
    assert not any("chat" in note for note in notes)


@pytest.mark.parametrize("template, note", [
    (None, None),
    (LLAMA2, "tiny: no chat on the page: its chat template is more than fixed text around each message"),
    ("{% if %}", "tiny: no chat on the page: the model's chat template cannot be used: "),
])  # fmt: skip
def test_export_without_chat_says_why(small, tmp_path, template, note):
    entry, notes = exported(small, tmp_path, **({"chat_template": template} if template else {}))
    assert entry["chat"] is None
    found = [each for each in notes if "chat" in each]
    assert found == [] if note is None else len(found) == 1 and found[0].startswith(note)


def test_export_names_settings_that_the_page_does_not_apply(small, tmp_path):
    rules = {"no_repeat_ngram_size": 3, "suppress_tokens": [5], "bad_words_ids": None, "num_beams": 4}
    _, notes = exported(small, tmp_path, {"generation_config.json": {"temperature": 0.5, "do_sample": True, **rules}})
    assert "tiny: settings of the model that the page does not apply: no_repeat_ngram_size, suppress_tokens" in notes
    assert [note for note in notes if "num_beams 4" in note]


# ---- errors -------------------------------------------------------------------------------------


def test_export_invalid_call_raises_and_leaves_nothing(folder, small, tmp_path, monkeypatch):
    def export(model=None, out="out", **more):
        return export_web.export_web([model], tmp_path / out, onnxruntime_web=small, **more)

    with pytest.raises(SettingError, match="unknown quantization 'q4_0' for a page: choose from fp32, fp16, int8"):
        export(quants=["q4_0"])
    with pytest.raises(UsageError, match="--quant does not apply: .* is copied into the page"):
        export(artefact("fp16"), quants=["int8"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileError, match="exists already"):
        export(out="mine")
    with pytest.raises(UsageError, match="was not written by export-web, so --force does not replace it"):
        export(out="mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

    describe = registry.load("converters", "onnx").describe
    monkeypatch.setattr(registry.load("converters", "onnx"), "describe", lambda path: (
        {**describe(path)[0], "edgekit.graph": "portable"}, *describe(path)[1:]))  # fmt: skip
    with pytest.raises(CheckpointError, match="does not have a fused graph: convert it with edgekit convert --to onnx"):
        export(artefact("fp16"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "nothing is left behind"


def test_export_ordinary_tokenizer_raises(small, stories, tmp_path):
    with pytest.raises(
        VocabularyError, match="does not have a TokenMonster tokenizer, the only kind that a page supports"
    ):
        export_web.export_web([stories], tmp_path / "out", onnxruntime_web=small)


def test_npm_missing_or_wrong_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(export_web_npm.shutil, "which", lambda name: None)
    with pytest.raises(
        FileError, match=r"npm, which fetches it, is not installed: install npm, or give --onnxruntime-web DIR"
    ):
        export_web_npm.assets(None, webgpu=False)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error no network' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(export_web_npm.shutil, "which", lambda name: str(npm))
    with pytest.raises(FileError, match=r"could not fetch onnxruntime-web@1.30.0 \(npm error no network\): install"):
        export_web_npm.assets(None, webgpu=False)
    assert not list((tmp_path / "cache").glob("*"))
    for content, message in (
        (None, "is not an npm package: it has no package.json"),
        ("{", "is damaged"),
        (
            '{"name": "left-pad", "version": "1.0.0"}',
            "is the npm package left-pad 1.0.0, not onnxruntime-web",
        ),
        (
            '{"name": "onnxruntime-web", "version": "../.."}',
            r"is the npm package onnxruntime-web \.\./\.\., not onnxruntime-web",
        ),
        ('{"name": "onnxruntime-web", "version": "1.30.0"}', "is not onnxruntime-web: it has no dist/"),
    ):
        if content is not None:
            (tmp_path / "package.json").write_text(content)
        with pytest.raises(FileError, match=message):
            export_web_npm.assets(tmp_path, webgpu=False)


def test_export_web_command_prints_folder_and_json(folder, small, tmp_path):
    out = tmp_path / "site"
    asked = ["-m", str(artefact("int8_rows")), "-o", str(out), "--onnxruntime-web", str(small), "--webgpu"]
    done = CliRunner().invoke(command.COMMAND, asked)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n" and "a first visit fetches" in done.stderr
    worker = (out / "sw.js").read_bytes()
    done = CliRunner().invoke(command.COMMAND, [*asked, "--force", "--json"])
    found = json.loads(done.stdout)
    assert found["total"] == sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) > found["first_visit"]
    assert found["models"][0]["vocab_size"] == 8064
    assert (out / "sw.js").read_bytes() == worker, "the same pages are the same version"


def test_export_stentor_shape_is_under_the_limit(small, shared, tmp_path):
    vocab = (shared / "tokenmonster" / "vocabs" / "english-8000-strict-nocapcode-v1.vocab").read_bytes()
    model = write_model(tmp_path / "stentor", STENTOR, files=tokenmonster_files(vocab), dtype=np.float16)
    exported = export_web.export_web([model], tmp_path / "out", onnxruntime_web=small)
    assert exported.models[0]["format"] == "onnx int8_rows" and exported.models[0]["bytes"] < 13_000_000
