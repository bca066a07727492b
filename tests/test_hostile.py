"""The attack of tests/hostile with fixed seeds, and the guard that readers of foreign bytes run under."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import spoilt

import edgekit
from edgekit.errors import (
    CheckpointError,
    ContextError,
    DataError,
    FileError,
    PromptError,
    RuntimeFailure,
    UsageError,
    VocabularyError,
)
from edgekit.formats import onnx_graph
from edgekit.formats.onnx import mapped as onnx_mapped
from edgekit.tokenizers import transformers_rules
from edgekit.tokenizers.huggingface import JsonTokenizer
from edgekit.utils import guard

HOSTILE = Path(__file__).parent / "hostile"


def attack(*arguments: str, timeout: float) -> str:
    """Run the driver; its table. Fails with it if anything but a clean error or a text came out."""
    environment = {k: v for k, v in os.environ.items() if k != guard.TRACEBACKS}
    command = [sys.executable, str(HOSTILE / "run.py"), "--workers", "1", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    return run.stdout


@pytest.fixture(scope="module")
def packages():
    for name in ("torch", "onnx", "onnxruntime", "llama_cpp", "gguf"):
        pytest.importorskip(name)
    if sys.platform != "linux":
        pytest.skip("the driver forks, and reads /proc")


def test_mutated_files_of_every_format_fixed_seeds_end_cleanly(packages):
    table = attack("--first", "1000", "--count", "12", "--minutes", "5", timeout=400)
    assert all(int(line.split()[2]) for line in table.splitlines() if line.startswith(("folder", "gguf", "onnx")))


@pytest.mark.slow
def test_mutated_files_of_a_minute_fixed_seeds_end_cleanly(packages):
    attack("--first", "50000", "--count", "150", "--minutes", "10", timeout=700)


@pytest.fixture
def no_tracebacks(monkeypatch):
    monkeypatch.delenv(guard.TRACEBACKS, raising=False)


@pytest.mark.parametrize("raised", [KeyError("bits"), OverflowError("too large"), RecursionError(), UnicodeError("x")])
def test_guard_exception_of_a_parser_names_the_file(no_tracebacks, raised):
    message = r"^a\.gguf is damaged, or not what edgekit reads \(\w+Error"
    with pytest.raises(CheckpointError, match=message) as caught, guard.reading("a.gguf"):
        raise raised
    assert caught.value.__cause__ is raised


def test_guard_other_errors_keep_their_kind(no_tracebacks):
    for raised, kind in ((MemoryError(), DataError), (OSError(36, "File name too long"), FileError)):
        with pytest.raises(kind, match="x"), guard.reading("x", DataError):
            raise raised
    for untouched in (UsageError("a"), KeyboardInterrupt(), SystemExit(3), ModuleNotFoundError("b")):
        with pytest.raises(type(untouched)) as caught, guard.reading("x"):
            raise untouched
        assert caught.value is untouched


def test_guard_with_tracebacks_hides_nothing(monkeypatch):
    monkeypatch.setenv(guard.TRACEBACKS, "1")
    with pytest.raises(KeyError), guard.reading("x"):
        raise KeyError("ours")


def test_guard_panic_of_a_rust_library_is_caught(no_tracebacks):
    @guard.reads(DataError)
    def read(path: str) -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(DataError, match="words.json is damaged.*PanicException: index out of bounds"):
        read("words.json")


def test_load_context_of_a_header_beyond_the_weights_is_refused_in_one_line(packages, tmp_path, bundled):
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    config = json.loads((folder / "config.json").read_bytes()) | {"max_position_embeddings": 10**7}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeFailure, match=r"10000000 tokens needs [\d.]+ GB of cache.*--context-length 4096"):
        edgekit.load(folder, runtime="native")
    for runtime in ("native", "torch"):
        model = edgekit.load(folder, runtime=runtime, context_length=64)
        assert model.runtime.context_length == 64 and model.generate("Once", max_new_tokens=2).tokens
        with pytest.raises(ContextError, match="holds 64"):
            model.generate([5] * 65)


def test_generate_from_ids_outside_the_vocabulary_names_the_id(bundled):
    model = edgekit.load(bundled)
    for id in (-1, model.runtime.vocab_size, 10**20):
        with pytest.raises(PromptError, match=f"{id} is not a token id from 0 to"):
            model.generate([5, id])


OPERATOR = {"Loop": "the operator 'Loop'", "domain": "the domain 'x'", "function": "defines functions",
            "Split": "a Split into 1 parts", "outside": "'../weights.bin', outside", "missing": "needs 'weights.bin'",
            "subgraph": "a graph inside its operator"}  # fmt: skip


@pytest.mark.parametrize("change", OPERATOR)
def test_onnx_graph_beyond_the_list_is_refused(packages, tmp_path, change):
    import onnx
    from onnx import helper

    def model(node=None, **more):
        info = helper.make_tensor_value_info("x", 1, [1])
        node = node or helper.make_node("Identity", ["x"], ["y"])
        graph = helper.make_graph([node], "g", [info], [helper.make_tensor_value_info("y", 1, [1])])
        return helper.make_model(graph, **more)

    graph = model().graph
    made = {
        "Loop": lambda: model(helper.make_node("Loop", ["x"], ["y"], body=graph)),
        "domain": lambda: model(helper.make_node("Identity", ["x"], ["y"], domain="x")),
        "function": lambda: model(functions=[helper.make_function("x", "F", ["a"], ["a"], [], [])]),
        "Split": lambda: model(helper.make_node("Split", ["x"], ["y"], num_outputs=1)),
        "subgraph": lambda: model(helper.make_node("Identity", ["x"], ["y"], body=graph)),
        "outside": model, "missing": model,
    }[change]()  # fmt: skip
    if change in ("outside", "missing"):
        tensor = helper.make_tensor("w", 1, [1], [1.0])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", {"outside": "../weights.bin", "missing": "weights.bin"}[change]
        made.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(CheckpointError, match=re.escape(OPERATOR[change])):
        onnx_graph.check(path, onnx_mapped(path))
    path.write_bytes(model().SerializeToString())
    onnx_graph.check(path, onnx_mapped(path))


class PanicException(BaseException):
    """As pyo3 names it."""


def test_encode_panic_of_the_library_is_a_prompt_error():
    tokenizer = JsonTokenizer(spoilt.FILES["tokenizer.json"], len(spoilt.PIECES))

    class Library:
        def encode(self, *_, **__):
            raise PanicException("attempt to subtract with overflow")

    assert tokenizer.encode("abc")
    tokenizer._library = Library()
    with pytest.raises(PromptError, match="PanicException: attempt to subtract"):
        tokenizer.encode("abc")


def test_open_library_panic_is_a_vocabulary_error(monkeypatch):
    def panics(_data):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(transformers_rules.tokenizers.Tokenizer, "from_buffer", panics, raising=False)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json cannot be read: index out of bounds"):
        transformers_rules.open_library(b"{}")
