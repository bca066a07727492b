"""Runs the examples and compares them with edgekit's own tokens."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from helpers import write_model

import edgekit
from edgekit.conversion.convert import convert
from edgekit.errors import MissingExtraError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.hub import BUNDLED
from edgekit.settings import Converting

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PROMPTS = ["Once upon a time", "The science of light", "\n\n", "don't"]
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0}  # which is not what the bundled model asks for


def opened_script(path: Path) -> ModuleType:
    """A script as a module, without its `__main__` part."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The bundled model in a format, made once: `made("gguf", "f32")`; skips where a package is missing."""
    folder, known = tmp_path_factory.mktemp("made"), {}

    def make(to: str, quant: str) -> Path:
        if (to, quant) not in known:
            out = folder / f"{quant}.{to}"
            try:
                known[to, quant] = convert(BUNDLED, to, out, settings=Converting(quant=quant), verify=False).path
            except MissingExtraError as error:
                pytest.skip(str(error))
        return known[to, quant]

    return make


# ---- weights averaged ----------------------------------------------------------------------------------------------


def test_average_weights_two_models_writes_the_mean(tmp_path):
    from safetensors.numpy import load_file

    shape = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=16,
    )  # fmt: skip
    a, b = (write_model(tmp_path / name, shape, seed=seed) for seed, name in enumerate("ab"))
    other = write_model(tmp_path / "other", dataclasses.replace(shape, vocab_size=48))

    def call(*arguments):
        script = [sys.executable, EXAMPLES / "average_weights.py", *arguments]
        return subprocess.run(script, capture_output=True, text=True, timeout=120)

    assert call(a, b, "-o", tmp_path / "mean").returncode == 0
    one, two, mean = (load_file(folder / "model.safetensors") for folder in (a, b, tmp_path / "mean"))
    for name in one:
        assert mean[name].dtype == one[name].dtype and abs(mean[name] - (one[name] + two[name]) / 2).max() < 1e-7
    assert (tmp_path / "mean" / "config.json").read_bytes() == (b / "config.json").read_bytes()
    for wrong in ((a, b, "-o", tmp_path / "mean"), (a, other, "-o", tmp_path / "new")):
        done = call(*wrong)
        assert done.returncode == 2 and "Traceback" not in done.stderr
    missing = call(a, tmp_path / "gone", "-o", tmp_path / "new")
    assert missing.returncode == 1 and missing.stderr == f"average_weights: {tmp_path / 'gone'} does not exist\n"
    assert not (tmp_path / "new").exists()


# ---- fifteen lines of Python ---------------------------------------------------------------------------------------


def test_fifteen_lines_function_has_fifteen_lines():
    import ast

    tree = ast.parse((EXAMPLES / "embedding" / "fifteen_lines.py").read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert ast.get_docstring(function)
    assert function.end_lineno - function.lineno == 15  # with its docstring: the first line has only the name


@pytest.mark.parametrize("to, quant", [("onnx", "fp32"), ("gguf", "q8_0")])
def test_fifteen_lines_text_equals_generate(made, to, quant):
    try:
        model = edgekit.load(made(to, quant), threads=1)
    except MissingExtraError as error:
        pytest.skip(str(error))
    tell = opened_script(EXAMPLES / "embedding" / "fifteen_lines.py").tell
    usual = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 7}
    for defaults, prompts in ((GREEDY, PROMPTS[:2]), (usual, PROMPTS)):
        model.defaults = type(model.defaults)(**defaults)
        for prompt in prompts:
            expected = model.generate(prompt, max_new_tokens=40)
            assert "".join(tell(model, prompt, 40)) == expected.text
    # To the end of the context, and no further.
    prompt = list(range(100, 100 + model.runtime.context_length - 5))
    assert "".join(tell(model, prompt)) == model.generate(prompt).text


def test_fifteen_lines_script_prints_the_text(made):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "embedding" / "fifteen_lines.py", made("onnx", "fp32"), "Once upon a time"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = edgekit.load(made("onnx", "fp32"), threads=1)
    assert done.stdout == model.generate("Once upon a time", max_new_tokens=80, seed=7).text + "\n"


# ---- C with the engine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Path:
    """story.c, compiled with the engine as one file."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    folder = tmp_path_factory.mktemp("story")
    subprocess.run([sys.executable, ROOT / "engine" / "tools" / "amalgamate.py", folder], check=True)
    done = subprocess.run(
        [compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{folder}", "-pthread",
         EXAMPLES / "embedding" / "story.c", folder / "edgekit.c", "-o", folder / "story"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "story"


def run_story(story: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(story), *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("quant", ["f32", "q4_0"])
def test_story_c_prints_the_text_of_python(made, story, quant):
    path = made("gguf", quant)
    model = edgekit.load(path, runtime="native", threads=1)
    settings = {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.0, "seed": 7}
    for prompt in (*PROMPTS, "Ωμέγα" * 9):  # which has more ids than bytes
        expected = model.generate(prompt, max_new_tokens=200, ban_replacement=True, **settings).text
        done = run_story(story, path, prompt)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{prompt}{expected}\n"


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["MODEL"], 2, "usage: story"),
        (["none.gguf", "Once"], 1, "cannot read none.gguf"),
        ([__file__, "Once"], 1, "not a GGUF file"),
        (["MODEL", "Once upon " * 600], 1, "context"),
    ],
)
def test_story_c_invalid_call_is_refused(made, story, arguments, status, message):
    path = made("gguf", "f32")
    done = run_story(story, *(path if word == "MODEL" else word for word in arguments))
    assert done.returncode == status and message in done.stderr


# ---- the notebook --------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(tmp_path, monkeypatch) -> dict:
    for package in ("onnxruntime", "onnx", "llama_cpp", "gguf", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the notebook needs {package}: pip install 'edgekit-lm[onnx,llamacpp,gguf,plot]'")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return json.loads((EXAMPLES / "embedding.ipynb").read_text())


def test_notebook_cells_have_no_output(notebook):
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)


def test_notebook_runs_and_prints_the_models_text(notebook, tmp_path, capsys):
    """Runs in Jupyter if it is installed, else cell by cell."""
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        pictures, printed = by_jupyter(notebook)
    else:
        names: dict = {}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), "cell", "exec"), names)
        pictures, printed = [names["report"].svg(names["verification"])], capsys.readouterr().out
    assert [picture for picture in pictures if picture.startswith("<svg")]
    model = edgekit.load(BUNDLED, runtime="onnx", threads=1)
    usual = {"max_new_tokens": 60, "temperature": 0.8, "top_p": 0.9, "seed": 7}
    for settings in (usual, {"max_new_tokens": 30, "temperature": 0}):
        assert model.generate("Once upon a time", **settings).text in printed
    assert "fp32.onnx" in printed and "q4_0.gguf" in printed


def by_jupyter(notebook: dict) -> tuple[list[str], str]:
    import nbformat
    from nbclient import NotebookClient

    ran = nbformat.reads(json.dumps(notebook), as_version=4)
    client = NotebookClient(ran, timeout=120, kernel_name="python3")
    client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    outputs = [output for cell in ran.cells for output in cell.get("outputs", [])]
    pictures = ["".join(o.data["image/svg+xml"]) for o in outputs if "image/svg+xml" in o.get("data", {})]
    return pictures, "".join(o.text for o in outputs if o.output_type == "stream")


# ---- golden vectors for other languages ----------------------------------------------------------------

GOLDEN = EXAMPLES / "golden"


def checked_output(command: list) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_golden_vectors_of_bindings_equal_the_engines_results(shared):
    make = opened_script(GOLDEN / "make.py")
    stories = shared / "models" / "stories260K" / "stories260K.f32.gguf"
    try:
        made = make.make(stories, {})
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert make.text(made) == (GOLDEN / "golden.json").read_text()
    for model in made["models"].values():
        assert {case["finish"] for case in model["texts"]} == {"stop", "length"}
