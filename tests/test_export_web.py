"""`edgekit export-web`: the folder, and that its model gives the same tokens in WebAssembly as in Python."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import STENTOR, rewritten, tokenmonster_files, write_model
from page_site import ROOT, artefact, site
from test_chat_template import LLAMA2, SMOLLM2

import edgekit
from edgekit.cli import export_web as command
from edgekit.conversion.convert import convert
from edgekit.errors import FileError, SettingError, UnsupportedError, UsageError
from edgekit.formats.gguf import GGUFFile
from edgekit.inference.generate import token_logprob
from edgekit.settings import Converting
from edgekit.tokenizers.load import pieces
from edgekit.web import chat_strings
from edgekit.web import export as export_web

PAGES = ROOT / "edgekit" / "web" / "pages"
VOCABULARY = ROOT / "training" / "recipes" / "story-8000.vocab"
MENU = {"temperature": 0.9, "top_p": 0.9, "top_k": 0, "min_p": 0.02, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def folder():
    return site()


def listed(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def described(folder):
    return json.loads((folder / "site.json").read_text())


# ---- the folder --------------------------------------------------------------------------------------------------


def test_service_worker_lists_every_file(folder):
    script = (folder / "sw.js").read_text()
    found = json.loads(re.search(r"^const SITE = (.*);$", script, re.MULTILINE)[1])
    told = [*found["shell"], *found["assets"]]
    assert not listed(folder) - set(told) - {"sw.js", "index.html", "package.json"}
    assert "./" in told and len(told) == len(set(told))
    assert {path for path in told if path != "./"} <= listed(folder)
    assert re.fullmatch("[0-9a-f]{12}", found["version"])
    assert not [path for path in found["shell"] if path.endswith((".wasm", ".gguf"))], "a browser needs one of each"


def test_large_files_have_their_hash_in_the_name(folder):
    page = described(folder)
    for model in page["models"]:
        data = (folder / model["file"]).read_bytes()
        assert len(data) == model["bytes"] and hashlib.sha256(data).hexdigest()[:10] in model["file"]
    builds = page["engine"]["variants"]
    assert list(builds) == ["relaxed", "simd", "scalar"]
    for build in builds.values():
        assert (folder / build["wasm"]).stat().st_size == build["bytes"] < 300_000
        assert re.match(r"edgekit-lm-[0-9a-f]{10}/", build["wasm"])


def test_first_visit_is_within_its_limits(folder, tmp_path):
    exported = export_web.export_web([None], tmp_path / "site")
    assert [model["format"] for model in exported.models] == ["gguf q4_0"]
    assert exported.first_visit < 6_000_000
    assert exported.first_visit - exported.models[0]["bytes"] + artefact("q8_0").stat().st_size < 9_000_000
    later = sorted(build["bytes"] for build in described(tmp_path / "site")["engine"]["variants"].values())[:2]
    assert exported.first_visit == exported.total - sum(later)


def test_modules_import_local_files_only(folder):
    modules = [*folder.glob("*.js"), *folder.glob("edgekit-lm-*/*.js")]
    assert len(modules) > 12
    for path in modules:
        for name in re.findall(r'^(?:import|export)\b[^"]*?from "([^"]+)";$', path.read_text(), re.MULTILINE):
            assert name.startswith("./") and (path.parent / name).is_file(), f"{path.name} imports {name}"
    for path in [*PAGES.rglob("*.js"), *PAGES.glob("*.html"), *PAGES.glob("*.css"), *PAGES.glob("*.webmanifest")]:
        code = re.sub(r"^//.*$", "", path.read_text(), flags=re.MULTILINE)
        assert not re.search(r"https?://\w|innerHTML|insertAdjacentHTML|document\.write", code), path.name
    page = (folder / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (folder / name).is_file(), name


def test_readme_describes_each_module():
    readme = (ROOT / "examples" / "mobile_web" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PAGES.rglob("*.js") if f"`{path.name}`" not in readme] == []


def test_export_default_type_is_the_most_exact_that_fits(folder, tmp_path):
    """Between the two limits are the bundled model (above) and this one; one of 12M parameters fits in no type."""
    files = tokenmonster_files(VOCABULARY.read_bytes())
    for name, width, layers, expected in (("a", 32, 1, "f16"), ("b", 128, 6, "q8_0"), ("c", 256, 12, "q4_0")):
        shape = dataclasses.replace(STENTOR, hidden_size=width, num_hidden_layers=layers, head_dim=width // 4)
        model = write_model(tmp_path / name, shape, files=files, dtype=np.float16)
        assert export_web._fitting(model) == expected, name


def test_export_equal_names_get_distinct_ids(folder, tmp_path):
    files = [tmp_path / name / "model.gguf" for name in ("a", "b")]
    for path, kind in zip(files, ("q4_0", "q8_0"), strict=True):
        path.parent.mkdir()
        shutil.copy(artefact("q4_0"), path)
        rewritten_value(path, b"story-7m", f"story-{kind[1]}m".encode())
    exported = export_web.export_web([files[0], files[1], files[0]], tmp_path / "out")
    assert [model["id"] for model in exported.models] == ["model-q4_0", "model-q4_0-2"]
    assert len(list((tmp_path / "out" / "models").iterdir())) == 2


def rewritten_value(path, before, after):
    """Other bytes in a GGUF file's metadata, of the same length, outside the files in it, which have checksums."""
    data = path.read_bytes()
    at = data.index(before, data.index(b"general.name"))
    path.write_bytes(data[:at] + after + data[at + len(before) :])


def test_export_foreign_gguf_is_copied_with_its_template(folder, stories, tmp_path):
    pytest.importorskip("gguf", reason="needs edgekit-lm[gguf]")
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}<s>assistant: "
    source = tmp_path / "stories"
    shutil.copytree(stories, source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    foreign = rewritten(as_gguf(source, tmp_path), tmp_path / "Stories-260K-F16.gguf")
    exported = export_web.export_web([foreign], tmp_path / "out")
    (entry,) = exported.models
    assert (tmp_path / "out" / entry["file"]).read_bytes() == foreign.read_bytes()
    assert (entry["id"], entry["vocab_size"]) == ("Stories-260K-f16", 512)
    assert entry["chat"]["answer"] == "</s><s>assistant: "
    (events,) = asked(tmp_path / "out", entry["id"], [{"prompt": "Once", "settings": {**MENU, "seed": 3}}])
    expected = edgekit.load(foreign, runtime="native").generate("Once", seed=3, **MENU)
    assert events[-1]["tokens"] == expected.tokens and events[-1]["text"] == expected.text
    # With --quant it is converted.
    again = export_web.export_web([foreign], tmp_path / "again", quants=["q8_0"])
    assert again.models[0]["id"] == "Stories-260K-F16-q8_0"


def as_gguf(source, folder):
    settings = Converting(quant="f16")
    return convert(source, "gguf", folder / "ours.gguf", settings=settings, verify=False).path


@pytest.mark.parametrize("changes, message", [
    ({"tokenizer__ggml__model": "bert"}, r"x\.gguf cannot run on a page: .*bert"),
    ({"general__architecture": "qwen2"}, r"x\.gguf cannot run on a page: .*qwen2"),
])  # fmt: skip
def test_export_gguf_that_the_engine_does_not_run_names_the_reason(folder, stories, tmp_path, changes, message):
    pytest.importorskip("gguf", reason="needs edgekit-lm[gguf]")
    foreign = rewritten(as_gguf(stories, tmp_path), tmp_path / "x.gguf", **changes)
    with pytest.raises(FileError, match=message):
        export_web.export_web([foreign], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- its model ---------------------------------------------------------------------------------------------


def asked(folder, id, requests, build=None):
    """The answers of tests/export_web.mjs."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node 18 or newer")
    done = subprocess.run(
        [node, str(ROOT / "tests" / "export_web.mjs"), str(folder), id, *([build] if build else [])],
        input="\n".join(json.dumps(request) for request in requests),
        capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.rstrip("\n").split("\n")]
    assert len(answers) == len(requests), done.stderr
    return answers


@pytest.mark.parametrize("kind, build", [("q4_0", "simd"), ("q4_0", "scalar"), ("q8_0", "simd")])
def test_webassembly_tokens_equal_python(folder, kind, build):
    model = edgekit.load(artefact(kind), runtime="native", threads=1)
    requests = [
        {"prompt": "Once upon a time", "settings": {**MENU, "seed": 7, "max_new_tokens": 120}},
        # The page sets every setting; Python has its own default penalty for TokenMonster models.
        {"prompt": "“Ça va?” she said", "settings": {**MENU, "temperature": 0, "max_new_tokens": 12}, "top": 10},
        {"prompt": "Science is", "settings": {**MENU, "seed": 2**53 - 1, "max_new_tokens": 12, "top_k": 40}, "top": 10},
        {"tokens": [*model.encode("Once upon a time"), 5, 9], "settings": {**MENU, "seed": 1, "max_new_tokens": 9}},
    ]
    answers = asked(folder, f"story-7m-{kind}", requests, build)
    for request, (start, *tokens, end) in zip(requests, answers, strict=True):
        expected = model.generate(request.get("prompt", request.get("tokens")), logprobs=10, **request["settings"])
        assert start["tokens"] == expected.prompt
        assert end["tokens"] == expected.tokens == [token["id"] for token in tokens]
        assert end["text"] == expected.text == "".join(token["text"] for token in tokens)
        assert end["finish_reason"] == expected.finish_reason and end["tokens_per_second"] > 0
        assert [token["piece"] for token in tokens] == [model.tokenizer.piece(token["id"]) for token in tokens]
        if not request.get("top"):
            continue
        assert start["pieces"] == pieces(model.tokenizer, expected.prompt)
        for token, known in zip(tokens, expected.logprobs, strict=True):
            assert token["before"] == pytest.approx(np.exp(known.logprob), rel=1e-9)
            assert [one["id"] for one in token["top"]] == [id for id, _ in known.top]
            assert [one["before"] for one in token["top"]] == pytest.approx(np.exp([p for _, p in known.top]), rel=1e-9)
            assert token["after"] == 1 if not request["settings"]["temperature"] else 0 < token["after"] <= 1
            assert sum(one["after"] for one in token["top"]) <= 1 + 1e-9


def test_webassembly_chances_after_the_sampler_equal_python(folder):
    model = edgekit.load(artefact("q4_0"), runtime="native", threads=1)
    settings = {**MENU, "seed": 7, "max_new_tokens": 8}
    ((_, *tokens, _),) = asked(folder, "story-7m-q4_0", [{"prompt": "The cat", "settings": settings, "top": 20}])
    stream = model.stream("The cat", logprobs=20, **settings)
    for token, step in zip(tokens, stream.steps(distribution=True), strict=True):
        assert token["after"] == pytest.approx(step.distribution.probability(step.token), rel=1e-9)
        known = [step.distribution.probability(id) for id, _ in step.logprob.top]
        assert [one["after"] for one in token["top"]] == pytest.approx(known, rel=1e-9)


def test_webassembly_memory_is_small_and_errors_are_one_line(folder):
    info, *errors = asked(folder, "story-7m-q4_0", [
        {"info": True},
        {"prompt": "a", "settings": {"top_p": 3}},
        {"prompt": "", "tokens": [8064], "settings": {}},
        {"prompt": "word " * 600, "settings": {}},
        {"prompt": "still here", "settings": {"max_new_tokens": 2}},
    ])  # fmt: skip
    entry = described(folder)["models"][0]
    assert info["memory"] < 60_000_000
    assert [info[name] for name in ("vocab_size", "parameters")] == [
        entry[name] for name in ("vocab_size", "parameters")
    ]
    assert errors[0] == {"error": "EdgekitError: topP must be a number from 0 to 1, not 3"}
    assert errors[1] == {"error": "EdgekitError: token id 8064 is outside the vocabulary of 8064"}
    assert re.match(r"EdgekitError: the prompt has \d+ tokens, but the context holds 512", errors[2]["error"])
    assert errors[3][-1]["type"] == "end" and len(errors[3][-1]["tokens"]) == 2


def test_webassembly_branch_is_a_forward_pass_over_its_ids(folder):
    model = edgekit.load(artefact("q4_0"), runtime="native", threads=1)
    ids = [*model.encode("Once upon a time"), 5, 9]
    best = token_logprob(model.runtime.forward(ids), 0, 1).top[0][0]
    request = {"tokens": ids, "settings": {"temperature": 0, "repetition_penalty": 1, "max_new_tokens": 1}}
    ((*_, end),) = asked(folder, "story-7m-q4_0", [request])
    assert end["tokens"] == [best]


def test_webassembly_conversation_equals_python(folder):
    model = edgekit.load(artefact("q4_0"), runtime="native", threads=1)
    settings = {**MENU, "seed": 7, "max_new_tokens": 30}
    talk = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a time"},
            {"role": "user", "content": "Go on! "}]  # fmt: skip
    conversations = [talk[:1], talk, [{"role": "system", "content": "Be brief."}, *talk]]
    requests = [{"messages": messages, "settings": settings} for messages in conversations]
    for messages, (start, *_, end) in zip(conversations, asked(folder, "story-7m-q4_0", requests), strict=True):
        expected = model.chat(messages, **settings).drain()
        assert (start["tokens"], start["dropped"]) == (expected.prompt, 0)
        assert (end["tokens"], end["text"], end["finish_reason"]) == (
            expected.tokens, expected.text, expected.finish_reason)  # fmt: skip


def test_webassembly_long_conversation_loses_its_oldest_turns(folder):
    turns = [{"role": ["user", "assistant"][i % 2], "content": f"word {i} " * 40} for i in range(9)]
    system = {"role": "system", "content": "Be brief."}
    request = {"messages": [system, *turns], "settings": {"max_new_tokens": 40}}
    ((start, *_),) = asked(folder, "story-7m-q4_0", [request])
    model = edgekit.load(artefact("q4_0"), runtime="native", threads=1)
    sizes = {i: model.chat_template.encode([system, *turns[i:]], model.tokenizer) for i in range(0, 9, 2)}
    expected = min(i for i, ids in sizes.items() if len(ids) <= 512 - 40)
    assert (start["dropped"], start["tokens"]) == (expected, sizes[expected]) and expected > 0


def test_conversation_rendered_equals_python(folder):
    strings = {"start": "<u>", "system": ["<s>", "</s><u>"], "answer": "<a>", "next": "<n>", "end": "<end>"}
    spaces = [chr(point) for point in range(0x110000) if chr(point).isspace() or point in (0x200B, 0xFEFF)]
    contents = [f"{space}a{space}" for space in spaces] + ["", " ", "a\n b", "\u00a0 x \u3000"]
    some = [[{"role": "user", "content": text}] for text in contents]
    roles = ["system", *["user", "assistant"] * 2, "user"]
    some += [
        [{"role": role, "content": contents[start + i]} for i, role in enumerate(roles[1 - system :])]
        for start in range(0, len(contents) - 6, 3)
        for system in (0, 1)
    ]
    given = [strings | {"strip": strip} for strip in ([], ["user"], ["system", "assistant"])]
    answers = asked(folder, "story-7m-q4_0", [{"render": some, "strings": each} for each in given])
    assert answers == [[chat_strings.join(each, messages) for messages in some] for each in given]


# ---- chat templates and settings ---------------------------------------------------------------------------


def exported(tmp_path, more=None, **config):
    """An export of a tiny model with these files; returns its entry and the notes."""
    files = tokenmonster_files(VOCABULARY.read_bytes(), **config)
    files |= {name: json.dumps(value).encode() for name, value in (more or {}).items()}
    shape = dataclasses.replace(STENTOR, hidden_size=32, intermediate_size=64, num_hidden_layers=1, head_dim=8)
    model = write_model(tmp_path / "tiny", shape, files=files)
    done = export_web.export_web([model], tmp_path / "out")
    (entry,) = described(tmp_path / "out")["models"]
    return entry, done.notes


def test_export_chat_template_becomes_strings(folder, tmp_path):
    config = {"eos_token": "<|im_end|>", "chat_template": SMOLLM2}
    entry, notes = exported(tmp_path, **config)
    assert entry["chat"]["ends"] == [8000] and "named SmolLM" in entry["chat"]["start"]
    assert not any("chat" in note for note in notes)


@pytest.mark.parametrize("template, note", [
    (None, None),
    (LLAMA2, "tiny: no chat on the page: its chat template is more than fixed text around each message"),
    ("{% if %}", "tiny: no chat on the page: the model's chat template cannot be used: "),
])  # fmt: skip
def test_export_without_chat_says_why(folder, tmp_path, template, note):
    entry, notes = exported(tmp_path, **({"chat_template": template} if template else {}))
    assert entry["chat"] is None
    found = [each for each in notes if "chat" in each]
    assert found == [] if note is None else len(found) == 1 and found[0].startswith(note)


def test_export_names_settings_that_the_page_does_not_apply(folder, tmp_path):
    rules = {"no_repeat_ngram_size": 3, "suppress_tokens": [5], "bad_words_ids": None, "num_beams": 4}
    entry, notes = exported(tmp_path, {"generation_config.json": {"temperature": 0.5, "do_sample": True, **rules}})
    assert "tiny: settings of the model that the page does not apply: no_repeat_ngram_size, suppress_tokens" in notes
    assert [note for note in notes if "num_beams 4" in note]
    assert entry["defaults"]["temperature"] == 0.5


# ---- errors -------------------------------------------------------------------------------------


def test_export_invalid_call_raises_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def export(model=None, out="out", **more):
        return export_web.export_web([model], tmp_path / out, **more)

    with pytest.raises(SettingError, match="unknown quantization 'int8' for a page: choose from q4_0, q8_0, f16"):
        export(quants=["int8"])
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="m.onnx cannot run on a page, which needs GGUF: give the model folder"):
        export(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileError, match="exists already"):
        export(out="mine")
    with pytest.raises(UsageError, match="was not written by export-web, so --force does not replace it"):
        export(out="mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    monkeypatch.setattr(export_web, "PACKAGE", tmp_path / "mine")
    with pytest.raises(FileError, match=r"the engine for browsers is incomplete \(engine-relaxed.wasm is missing\)"):
        export()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "nothing is left behind"


def test_export_truncated_gguf_is_one_line(folder, tmp_path):
    (tmp_path / "half.gguf").write_bytes(artefact("q4_0").read_bytes()[:3_000_000])
    with pytest.raises(FileError, match=r"half.gguf cannot run on a page: .*") as caught:
        export_web.export_web([tmp_path / "half.gguf"], tmp_path / "out")
    assert "\n" not in str(caught.value) and not isinstance(caught.value, UnsupportedError)


def test_export_web_command_prints_folder_and_json(folder, tmp_path):
    out = tmp_path / "site"
    asked = ["-m", str(artefact("q4_0")), "-o", str(out)]
    done = CliRunner().invoke(command.COMMAND, asked)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n" and "a first visit fetches 5." in done.stderr
    worker = (out / "sw.js").read_bytes()
    done = CliRunner().invoke(command.COMMAND, [*asked, "--force", "--json"])
    found = json.loads(done.stdout)
    assert found["total"] == sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) > found["first_visit"]
    assert found["models"][0]["vocab_size"] == 8064
    assert (out / "sw.js").read_bytes() == worker, "the same pages are the same version"
    assert GGUFFile(out / found["models"][0]["file"]).metadata["edgekit.quant"] == "q4_0"
