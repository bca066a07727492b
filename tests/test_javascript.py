"""edgekit-lm for JavaScript, run by Node: the tokens, logits and pieces of Python on all three WebAssembly files."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from engine_build import ENGINE

import edgekit
from edgekit.inference.generate import Stream

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "edgekit" / "web" / "javascript"
FILES = ["relaxed", "simd", "scalar"]
PROMPTS = ["Once upon a time", "The café's 😀 naïve 漢字", "  \n\tTwo  spaces", "é", "I LOVE My Dog, said Tom."]


@pytest.fixture(scope="module")
def node():
    """Runs tests/javascript.mjs; `package` names another place of the package."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js 18 or newer: apt install nodejs")
    known = subprocess.run(["node", "--v8-options"], capture_output=True, text=True).stdout
    flags = [flag for flag in ["--experimental-wasm-relaxed-simd"] if flag in known]

    def run(source, *jobs, kind="path", damages=None, **options):
        request = {"source": {"kind": kind, "path": str(source)}, "options": options, "jobs": jobs, "damages": damages}
        done = subprocess.run(
            ["node", "--no-warnings", *flags, ROOT / "tests" / "javascript.mjs"],
            input=json.dumps(request), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        if not isinstance(answer, dict) or "results" not in answer:
            return answer
        sizes = [state["loaded"] for state in answer["progress"]]
        assert sizes == sorted(sizes) and sizes[-1] == answer["progress"][-1].get("total", sizes[-1])
        return answer["results"]

    return run


@pytest.fixture(scope="module")
def story(bundled, tmp_path_factory):
    """The bundled model in Q4_0."""
    pytest.importorskip("gguf")
    from edgekit.conversion import convert
    from edgekit.settings import Converting

    path = tmp_path_factory.mktemp("javascript") / "story.gguf"
    return convert.convert(bundled, "gguf", path, settings=Converting("q4_0"))[0]


@pytest.fixture(scope="module")
def models(story):
    """name -> path and Python's model: TokenMonster, and SentencePiece where the shared folder is."""
    from helpers import NO_SHARED, SHARED

    def of(name):
        if name == "tiny" and not SHARED.is_dir():
            pytest.skip(NO_SHARED)
        path = story if name == "story" else SHARED / "models" / "stories260K" / "stories260K.f32.gguf"
        return path, edgekit.load(path, runtime="native")

    return of


TEXTS = [
    {"temperature": 0.0},
    {"seed": 7},
    {"seed": 2**63, "temperature": 1.0, "top_k": 40},
    {"seed": 3, "temperature": 1.3, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    {"seed": 4, "temperature": 0.9, "presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.0},
    {"seed": 5, "temperature": 0.8, "stop": ("and", "!", "the")},
    {"seed": 6, "temperature": 3.0, "ban_replacement": True, "ignore_eos": True, "max_new_tokens": 60},
    {"seed": 8, "temperature": 3.0, "max_new_tokens": 60},
]


def camel(settings):
    """Python's settings as JavaScript's; a seed that JSON cannot hold is a text."""
    named = {re.sub(r"_(.)", lambda match: match[1].upper(), name): value for name, value in settings.items()}
    return named | ({"seed": str(named["seed"])} if "seed" in named else {})


def python(model, prompt, settings):
    stream = model.stream(prompt, **settings)
    steps = [[step.token, step.text] for step in stream.steps()]
    return {
        "steps": steps, "text": stream.result.text, "ids": stream.result.tokens, "promptIds": stream.result.prompt,
        "finishReason": stream.result.finish_reason,
    }  # fmt: skip


def fnv1a64(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@pytest.mark.parametrize("wasm", FILES)
@pytest.mark.parametrize("name, golden", [("story", "story-7m-q4_0"), ("tiny", "stories260K")])
def test_golden_vectors(node, models, name, golden, wasm):
    path, _ = models(name)
    cases = json.loads((ROOT / "examples" / "golden" / "golden.json").read_text())["models"][golden]
    texts = [case["text"] for case in cases["encode"]]
    encoded, decoded, *results = node(
        path, ["encode", texts, {"bos": False}], ["decode", [case["ids"] for case in cases["decode"]]],
        *(["steps", case["prompt"], camel(case["settings"])] for case in cases["texts"]), wasm=wasm,
    )  # fmt: skip
    assert encoded == [case["ids"] for case in cases["encode"]]
    assert decoded == ["".join(case["pieces"]) for case in cases["decode"]]
    for case, result in zip(cases["texts"], results, strict=True):
        assert result["promptIds"] == case["prompt_ids"] and result["ids"] == case["ids"], case
        assert [text for _, text in result["steps"] if text] == case["pieces"]
        assert result["finishReason"] == case["finish"]
    for kv in {case["kv"] for case in cases["logits"]}:
        of_kv = [case for case in cases["logits"] if case["kv"] == kv]
        results = node(path, *(["logits", case["ids"]] for case in of_kv), wasm=wasm, kvType=kv)
        assert [fnv1a64(base64.b64decode(logits)) for logits in results] == [case["fnv1a64"] for case in of_kv]


@pytest.mark.parametrize("wasm", FILES)
@pytest.mark.parametrize("name", ["story", "tiny"])
def test_a_seed_gives_pythons_tokens_and_pieces(node, models, name, wasm):
    path, model = models(name)
    texts = [
        (prompt, {"max_new_tokens": 24} | settings)
        for number, settings in enumerate(TEXTS)
        for prompt in (PROMPTS if wasm == "simd" else [PROMPTS[number % len(PROMPTS)]])
    ]
    results = node(path, *(["steps", prompt, camel(settings)] for prompt, settings in texts), wasm=wasm)
    for (prompt, settings), result in zip(texts, results, strict=True):
        seed = result.pop("seed")
        assert result == python(model, prompt, settings), (prompt, settings)
        assert "seed" not in settings or int(seed) == settings["seed"]
    assert {result["finishReason"] for result in results} >= {"length", "stop"}


@pytest.mark.parametrize("wasm, kv", [("relaxed", "f16"), ("simd", "f32"), ("simd", "int8"), ("scalar", "f16")])
def test_logits_have_pythons_bits(node, models, wasm, kv):
    path, _ = models("story")
    model = edgekit.load(path, runtime="native", kv_type=kv)
    lists = [model.encode(prompt) for prompt in PROMPTS] + [list(range(200, 400)), list(range(200, 330)) + [9]]
    results = node(path, *(["logits", ids] for ids in lists), wasm=wasm, kvType=kv)
    for ids, result in zip(lists, results, strict=True):
        model.runtime.rewind(0)
        assert base64.b64decode(result) == model.runtime.forward(ids).tobytes()


@pytest.mark.parametrize("name", ["story", "tiny"])
def test_ids_and_texts_are_pythons(node, models, name):
    path, model = models(name)
    texts = [*PROMPTS, "", "</s> <s>", "x" * 3000, "a\u0000b", "\ufeffB"]
    bare, framed, special, decoded, vocabulary = node(
        path, ["encode", texts, {"bos": False}], ["encode", texts], ["encode", texts, {"special": True}],
        ["decode", [model.encode(text) for text in texts] + [[id] for id in range(300)]], ["vocabulary"],
    )  # fmt: skip
    assert bare == [model.tokenizer.encode(text) for text in texts]
    assert framed == [model.encode(text) for text in texts]
    assert special == [model.encode(text, special=True) for text in texts]
    lists = [model.encode(text) for text in texts] + [[id] for id in range(300)]
    assert decoded == [model.tokenizer.decode(ids) for ids in lists]
    assert vocabulary == [model.tokenizer.piece(id) for id in range(model.tokenizer.vocab_size)]


def test_info_and_metadata_are_those_of_the_file(node, models):
    from edgekit.formats.gguf import GGUFFile

    path, model = models("story")
    file = GGUFFile(path)
    keys = [key for key, value in file.metadata.items() if isinstance(value, str | int | float | list)]
    info, values, absent = node(path, ["info"], ["metadata", keys], ["metadata", ["no.such.key"]])
    assert len(keys) > 20 and dict(zip(keys, values, strict=True)) == {key: file.metadata[key] for key in keys}
    assert absent == [None]
    assert info["vocabulary"] == model.runtime.vocab_size and info["contextLength"] == model.runtime.context_length
    assert info["bytes"] == path.stat().st_size and info["instructions"] == "relaxed"
    assert info["bytes"] < info["memory"] < 20_000_000
    assert info["defaults"] == {
        name: value for name, value in camel(vars(model.defaults)).items() if name in info["defaults"]
    }


def test_a_shorter_context_ends_a_text_and_takes_less_memory(node, models):
    path, _ = models("story")
    [result, info] = node(path, ["generate", "Once upon a time", {"ignoreEos": True}], ["info"], context=40)
    assert result["finishReason"] == "length" and len(result["promptIds"]) + len(result["ids"]) == 41
    [whole] = node(path, ["info"])
    assert info["contextLength"] == 40 and info["trainedContext"] == 512 and info["memory"] < whole["memory"]


def test_a_text_that_was_left_or_aborted_leaves_the_model_usable(node, models):
    path, model = models("story")
    expected = model.generate("Once upon a time", seed=1, max_new_tokens=40)
    [(left, again), (pieces, aborted), after] = node(
        path, ["leave", "Once upon a time", 5, {"seed": 1, "maxNewTokens": 40}],
        ["abort", "Once upon a time", 50, {"maxNewTokens": 500, "ignoreEos": True}],
        ["generate", "Once upon a time", {"seed": 1, "maxNewTokens": 40}], wasm="scalar",
    )  # fmt: skip
    assert left["finishReason"] == "cancelled" and expected.text.startswith(left["text"]) and len(left["ids"]) < 20
    assert aborted["finishReason"] == "cancelled" and aborted["text"] == pieces and len(aborted["ids"]) < 400
    assert again["ids"] == after["ids"] == expected.tokens


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "seed": 3}])
def test_probabilities_and_further_ends_are_pythons(node, models, settings):
    path, model = models("tiny")
    ids = model.encode("Once upon a time")
    settings |= {"repetition_penalty": 1.1, "max_new_tokens": 30}
    free = model.generate(ids, **settings).tokens
    ends = [free[12]]
    stream = Stream(
        model.runtime, model.tokenizer, ids, dataclasses.replace(model.defaults, **settings, logprobs=5), ends=ends
    )
    [tokens] = node(path, ["chances", ids, camel(settings) | {"top": 5, "ends": ends}])
    steps = list(stream.steps(distribution=True))
    assert [token["id"] for token in tokens] == [step.token for step in steps] == free[: free.index(ends[0]) + 1]
    for token, step in zip(tokens, steps, strict=True):
        assert token["before"] == pytest.approx(np.exp(step.logprob.logprob), rel=1e-9)
        assert token["after"] == pytest.approx(step.distribution.probability(step.token), rel=1e-9)
        assert [one["id"] for one in token["top"]] == [id for id, _ in step.logprob.top]
        for one, (id, logprob) in zip(token["top"], step.logprob.top, strict=True):
            assert one["before"] == pytest.approx(np.exp(logprob), rel=1e-9)
            assert one["after"] == pytest.approx(step.distribution.probability(id), rel=1e-9)


@pytest.mark.parametrize("kind", ["bytes", "buffer", "blob", "response", "url"])
def test_sources(node, models, kind):
    path, model = models("story")
    ids = model.encode("Once upon a time")
    if kind == "url":
        with serve(path.parent) as address:
            [logits] = node(f"{address}/{path.name}", ["logits", ids], kind=kind)
            missing = node(f"{address}/missing.gguf", kind=kind)
        assert missing == {"error": f"{address}/missing.gguf: HTTP status 404"}
    else:
        [logits] = node(path, ["logits", ids], kind=kind)
    model.runtime.rewind(0)
    assert base64.b64decode(logits) == model.runtime.forward(ids).tobytes()


class serve:
    """An HTTP server of a folder, on a free port."""

    def __init__(self, folder):
        handler = partial(SimpleHTTPRequestHandler, directory=folder)
        handler.log_message = lambda *arguments: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


BAD = [
    ({"temperature": -1}, "temperature must be a number of at least 0, not -1"),
    ({"temperature": None, "topP": 2}, "topP must be a number from 0 to 1, not 2"),
    ({"repetitionPenalty": 0}, "repetitionPenalty must be a number above 0, not 0"),
    ({"topK": 1.5}, "topK must be a whole number from 0, not 1.5"),
    ({"maxNewTokens": 0}, "maxNewTokens must be a whole number from 1, not 0"),
    ({"seed": -1}, "seed must be a whole number from 0 to 2^63, not -1"),
    ({"seed": "9223372036854775809"}, 'seed must be a whole number from 0 to 2^63, not "9223372036854775809"'),
    ({"seed": "seven"}, 'seed must be a whole number from 0 to 2^63, not "seven"'),
    ({"stop": 5}, "stop must be a non-empty text, or an array of such, not 5"),
    ({"stop": ["a", ""]}, 'stop must be a non-empty text, or an array of such, not ["a",""]'),
    ({"max_new_tokens": 5}, "unknown setting max_new_tokens: choose from temperature,"),
    ({"temperature": 1e-320, "topP": 0.5}, "the temperature is too small to divide by: 0 takes the most likely token"),
    ({"top": -1}, "top must be a whole number from 0, not -1"),
    ({"ends": 3}, "expected token ids in an array, not 3"),
    ("seed", "settings must be an object, not"),
]


def test_bad_settings_and_prompts_are_one_sentence(node, models):
    path, _ = models("tiny")
    prompts = {
        "\ud800": "the prompt has half a surrogate pair",
        "x " * 600: "tokens, but the context holds 512: shorten it",
    }
    results = node(
        path, *(["generate", "Once", settings] for settings, _ in BAD), *(["generate", prompt] for prompt in prompts),
        ["generate", [1, 512]], ["generate", []], ["generate", 5], ["logits", [1, -1]], ["decode", [[1.5]]],
        ["twice", "Once"],
        ["generate", "Once", {"maxNewTokens": 2, "seed": 1}], ["close"], ["generate", "Once"], ["info"],
    )  # fmt: skip
    sentences = [
        *(sentence for _, sentence in BAD), *prompts.values(),
        "token id 512 is outside the vocabulary of 512", "the prompt is empty", "expected token ids in an array, not 5",
        "token id -1 is outside", "token id 1.5 is outside", "the model is generating another text",
    ]  # fmt: skip
    for result, sentence in zip(results, sentences, strict=False):
        assert sentence in result["error"]
    fine, closed, *after = results[len(sentences) :]
    assert len(fine["ids"]) == 2 and closed is None
    assert after == [{"error": "the model is closed"}] * 2


@pytest.mark.parametrize("options, sentence", [
    ({"wasm": "avx"}, 'wasm must be "relaxed", "simd" or "scalar", or a URL or the bytes of one, not "avx"'),
    ({"kvType": "f64"}, 'kvType must be f32, f16 or int8, not "f64"'),
    ({"context": -4}, "context must be a whole number of at least 1, not -4"),
])  # fmt: skip
def test_bad_options_of_load_are_one_sentence(node, models, options, sentence):
    assert node(models("tiny")[0], **options) == {"error": sentence}


def test_a_context_that_no_memory_holds_is_one_sentence(node, tmp_path):
    from engine_models import GROUPED, seeded_gguf

    from edgekit.formats.checkpoint import LlamaConfig

    config = LlamaConfig(**{**vars(GROUPED), "max_position_embeddings": 1 << 22})
    result = node(seeded_gguf(tmp_path / "long.gguf", "Q8_0", config), kvType="f32")
    assert re.fullmatch(
        r"the model needs \d+ MB of memory, more than can be had here.*|.*do not fit.*", result["error"]
    )


def test_damaged_files_are_errors_and_never_traps(node, models):
    path, _ = models("tiny")
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    cuts = [{"length": int(length), "changes": []} for length in [0, 3, 4, 23, *rng.integers(24, len(data), 40)]]
    changed = []
    for _ in range(300):
        places = rng.integers(0, 14_000, int(rng.integers(1, 4)))
        changed.append({"length": len(data), "changes": [[int(at), int(rng.integers(256))] for at in places]})
    results = node(path, damages=[*cuts, *changed])
    for result in results:
        assert isinstance(result, list) or not re.search("stopped|status", result["error"]), result
    assert all("error" in result for result in results[: len(cuts)])
    assert results[0] == {"error": "not a GGUF file (it does not begin with `GGUF`)"}
    opened = sum(isinstance(result, list) for result in results)
    assert 20 < opened < len(changed)


# ---- the package -------------------------------------------------------------------------------------------------


def test_version_is_that_of_the_python_package():
    assert json.loads((PACKAGE / "package.json").read_text())["version"] == edgekit.__version__


@pytest.mark.slow
def test_wasm_files_are_built_from_the_sources(tmp_path):
    """By the compiler of constraints.txt, whose output is the same on every machine."""
    pytest.importorskip("ziglang", reason="needs zig: pip install ziglang==0.17.1")
    subprocess.run([sys.executable, ENGINE / "tools" / "make_wasm.py", tmp_path], check=True)
    for name in FILES:
        file = f"engine-{name}.wasm"
        assert (tmp_path / file).read_bytes() == (PACKAGE / file).read_bytes(), f"{file}: run make -C engine wasm"
        assert (PACKAGE / file).stat().st_size < 170_000


@pytest.mark.slow
def test_types_describe_the_package(tmp_path):
    """A strict program that uses all of it, with two lines that must not compile."""
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    done = npm("install", "--no-audit", "--no-fund", "typescript@7", "@types/node@20", str(PACKAGE), cwd=tmp_path)
    if done.returncode:
        pytest.skip(f"needs the package typescript from npm: {done.stderr[-200:]}")
    shutil.copy(ROOT / "tests" / "javascript_types.ts", tmp_path / "program.ts")
    command = [
        "node_modules/.bin/tsc",
        "--strict",
        "--noEmit",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "program.ts",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def npm(*arguments, cwd):
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt install npm")
    return subprocess.run(["npm", "--no-update-notifier", *arguments], cwd=cwd, capture_output=True, text=True)


def test_packed_package_runs_in_a_new_project(models, tmp_path):
    path, model = models("tiny")
    packed = npm("pack", "--json", "--pack-destination", tmp_path, cwd=PACKAGE)
    assert packed.returncode == 0, packed.stderr
    [listing] = json.loads(packed.stdout)
    assert {file["path"] for file in listing["files"]} == {file.name for file in PACKAGE.iterdir()}
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"name": "project", "private": true, "type": "module"}')
    done = npm("install", "--offline", "--no-audit", "--no-fund", str(tmp_path / listing["filename"]), cwd=project)
    assert done.returncode == 0, done.stderr
    (project / "story.js").write_text(
        'import { load } from "edgekit-lm";\n'
        "const model = await load(process.argv[2]);\n"
        'const { text } = await model.generate("Once upon a time", { seed: 7, maxNewTokens: 20 });\n'
        "process.stdout.write(text);\n"
    )
    done = subprocess.run(["node", "story.js", path], cwd=project, capture_output=True, text=True)
    expected = model.generate("Once upon a time", seed=7, max_new_tokens=20).text
    assert (done.stdout, done.stderr) == (expected, "")
