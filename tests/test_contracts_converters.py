"""The contract of converters: required members, the optional protocols of each, and what their functions return."""

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import small
from helpers import tokenmonster_files, write_model

from edgekit.conversion import base, receipt
from edgekit.conversion.base import ArtefactTensor, Planned, Written, converter
from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, DataError, MissingExtraError, UnknownPluginError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.formats.gguf import GGUFFile
from edgekit.settings import Converting
from edgekit.tokenizers import llama2c
from edgekit.utils import registry
from edgekit.utils.progress import silent

CONFIG = LlamaConfig(448, 64, 96, 2, 4, 2, 16, 128, tie_word_embeddings=True)
OPTIONAL = [
    base.ReadsBack, base.ComparesTensors, base.CarriesReceipt, base.PlansSizes, base.PlansTensors, base.HasSynonyms,
    base.HasProbes, base.WeighsRounding, base.Describes, base.ChoosesTypes,
]  # fmt: skip
EXPECTED = {
    "gguf": {"ReadsBack", "ComparesTensors", "CarriesReceipt", "PlansSizes", "PlansTensors", "HasSynonyms", "HasProbes",
             "WeighsRounding"},
    "onnx": {"ComparesTensors", "CarriesReceipt", "PlansSizes", "HasProbes", "Describes", "ChoosesTypes"},
    "hf": set(),
    "llama2c": {"ReadsBack"},
}  # fmt: skip


@pytest.fixture(params=registry.names("converters"))
def name(request):
    return request.param


@pytest.fixture
def module(name):
    try:
        return converter(name)
    except MissingExtraError as error:
        pytest.skip(str(error))


def satisfying(protocol):
    """The installed converters with one of the optional protocols."""
    for name in registry.names("converters"):
        try:
            module = converter(name)
        except MissingExtraError:
            continue
        if isinstance(module, protocol):
            yield name, module


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    files = tokenmonster_files(small(1).to_bytes(), CONFIG.vocab_size)
    return write_model(tmp_path_factory.mktemp("contracts") / "tiny", CONFIG, std=0.2, files=files)


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory) -> Path:
    """The smallest tokenizer that llama2.c can have: three specials, 256 bytes, and a few pieces."""
    folder = tmp_path_factory.mktemp("contracts") / "spaced"
    tokens = [(text.encode(), 0.0) for text in (llama2c.NAMES | llama2c.BYTES).values()]
    tokens += [(text.encode(), -float(i)) for i, text in enumerate((" ", "t", "h", "e", " t", "he", " the"))]
    config = replace(CONFIG, vocab_size=len(tokens), eos_token_id=(1, 2))
    return write_model(folder, config, std=0.2, files=llama2c.files(tokens, config, folder))


def written(module, model, path, quant=None, **settings):
    tensors = module.convert(open_folder(model), path, Converting(quant or module.DEFAULT, **settings), silent)
    return path, tensors


def test_converter_attributes_have_declared_types(name, module):
    assert isinstance(module, base.Converter)
    assert registry.suffix("converters", name) == module.SUFFIX and module.SUFFIX in ("", f".{name}")
    assert isinstance(module.QUANTS, tuple) and all(isinstance(quant, str) for quant in module.QUANTS)
    assert module.DEFAULT in module.QUANTS and len(set(module.QUANTS)) == len(module.QUANTS)


def test_converter_optional_protocols_are_the_documented_ones(name, module):
    assert {protocol.__name__ for protocol in OPTIONAL if isinstance(module, protocol)} == EXPECTED[name]
    for protocol in OPTIONAL:
        assert protocol.__name__ in (base.__doc__ or "")


def test_optional_protocols_list_is_complete():
    protocols = {
        member
        for member in vars(base).values()
        if getattr(member, "_is_protocol", False) and member.__module__.startswith("edgekit.")
    }
    assert protocols == {base.Converter, *OPTIONAL}


def test_converter_functions_take_declared_parameters(module):
    """At least as many positional parameters as the protocol's method, and the same keyword ones."""
    for protocol in (base.Converter, *OPTIONAL):
        if not isinstance(module, protocol):
            continue
        for method, declared in inspect.getmembers(protocol, inspect.isfunction):
            if method.startswith("_"):
                continue
            count = len(inspect.signature(declared).parameters) - 1
            inspect.signature(getattr(module, method)).bind(*[None] * count)


def test_convert_writes_the_returned_tensors(name, module, model, sentencepiece_model, tmp_path):
    model = sentencepiece_model if name == "llama2c" else model  # whose files have no other tokenizer
    path, tensors = written(module, model, tmp_path / f"m{module.SUFFIX}")
    assert path.exists() and all(isinstance(tensor, Written) and tensor.bytes > 0 for tensor in tensors)
    assert len(tensors) >= CONFIG.num_hidden_layers * 5
    total = path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())
    assert sum(tensor.bytes for tensor in tensors) < total


def test_reads_back_returns_a_checkpoint(model, sentencepiece_model, tmp_path):
    for name, module in satisfying(base.ReadsBack):
        source = sentencepiece_model if name == "llama2c" else model
        path, _ = written(module, source, tmp_path / f"m{module.SUFFIX}")
        back = module.read(path)
        assert isinstance(back, Checkpoint)
        assert back.config.shapes() == open_folder(source).config.shapes()
        assert name == "llama2c" or back.config == open_folder(source).config  # run.c has BOS and EOS of its own


def test_weights_of_path_and_of_opened_artefact_are_equal(model, tmp_path):
    source = open_folder(model)
    for _, module in satisfying(base.ComparesTensors):
        path, _ = written(module, model, tmp_path / f"m{module.SUFFIX}", module.QUANTS[0])
        tensors = list(module.weights(path))
        assert [tensor.name for tensor in tensors] == list(CONFIG.shapes())
        for tensor, again in zip(tensors, module.weights(module.open_artefact(path)), strict=True):
            assert isinstance(tensor, ArtefactTensor) and tensor.type == again.type
            assert tensor.values.dtype == np.float32 and np.array_equal(tensor.values, again.values)
            assert np.array_equal(tensor.values, source.float32(tensor.name))


def test_add_receipt_changes_only_the_receipt(model, tmp_path):
    text = json.dumps({"a": "b"})
    for name, module in satisfying(base.CarriesReceipt):
        path = tmp_path / f"m{module.SUFFIX}"
        module.convert(open_folder(model), path, Converting(module.DEFAULT), silent, len(text))
        before = path.read_bytes()
        module.add_receipt(path, text)
        after = path.read_bytes()
        if name == "gguf":
            assert len(after) == len(before) and GGUFFile(path).metadata[embedded.RECEIPT].strip() == text
            assert sum(a != b for a, b in zip(before, after, strict=True)) <= len(text)
        else:
            assert after.startswith(before) and base.describe(name, path)[0][embedded.RECEIPT] == text


def test_add_receipt_without_reserved_room_raises(model, tmp_path):
    module = converter("gguf")
    assert isinstance(module, base.CarriesReceipt)
    path, _ = written(module, model, tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="without room for a receipt"):
        module.add_receipt(path, "{}")
    module.convert(open_folder(model), path, Converting(), silent, 10)
    with pytest.raises(CheckpointError, match="room for a receipt of .* bytes, not 1000"):
        module.add_receipt(path, "x" * 1000)


def test_sizes_are_the_sizes_of_the_files(model, tmp_path):
    for name, module in satisfying(base.PlansSizes):
        rows = list(module.sizes(open_folder(model), Converting()))
        assert [row.quant for row in rows] == list(module.QUANTS) and all(isinstance(row, Planned) for row in rows)
        row = next(row for row in rows if row.quant == module.DEFAULT)
        path = convert(model, name, tmp_path / f"m{module.SUFFIX}", settings=Converting(module.DEFAULT)).path
        assert path.stat().st_size == row.bytes


def test_planned_tensors_are_the_written_ones(model, tmp_path):
    for _, module in satisfying(base.PlansTensors):
        for quant in module.DIRECT:
            path = tmp_path / f"{quant}{module.SUFFIX}"
            assert written(module, model, path, quant)[1] == module.planned(CONFIG, quant)


def test_named_quantizations_exist():
    for _, module in satisfying(base.HasSynonyms):
        assert {*module.SAME, *module.SAME.values()} <= set(module.QUANTS)
    for _, module in satisfying(base.HasProbes):
        assert set(module.PROBES) <= set(module.QUANTS)
    for _, module in satisfying(base.WeighsRounding):
        assert set(module.WEIGHTED) <= set(module.QUANTS)


def test_describe_lists_metadata_tensors_and_operators(model, tmp_path):
    for name, module in satisfying(base.Describes):
        path, tensors = written(module, model, tmp_path / f"m{module.SUFFIX}")
        metadata, rows, operators = base.describe(name, path)
        assert metadata["edgekit.quant"] == module.DEFAULT and rows == tensors and sum(operators.values()) > 0
        assert isinstance(module, base.ComparesTensors)
        assert module.describe(module.open_artefact(path)) == (metadata, rows, operators)


def test_describe_of_a_format_without_it_raises(model):
    with pytest.raises(UnknownPluginError, match="hf does not describe files"):
        base.describe("hf", model)


def test_converter_lacking_a_member_raises(monkeypatch):
    monkeypatch.delattr(registry.load("converters", "hf"), "DEFAULT")
    with pytest.raises(UnknownPluginError, match="converters/hf.py is not a converter"):
        converter("hf")


# ---- what a conversion opens and imports ---------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """Paths of the GGUF files that were opened."""
    paths, real = [], GGUFFile.__init__

    def init(self, path):
        paths.append(Path(path))
        real(self, path)

    monkeypatch.setattr(GGUFFile, "__init__", init)
    return paths


def test_gguf_conversion_opens_its_file_once_and_for_llama_cpps_tokenizer_again(model, tmp_path, opened):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    made = convert(model, "gguf", tmp_path / "m.gguf", settings=Converting("q8_0"))
    assert made.receipt is not None and len(opened) == 2


def test_gguf_conversion_through_llama_cpp_opens_its_file_for_writing_for_verifying_and_for_the_tokenizer(
    model, tmp_path, opened
):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    made = convert(model, "gguf", tmp_path / "m.gguf", settings=Converting("q4_k_m"))
    assert made.receipt is not None and made.receipt["runtime"] == "llamacpp" and len(opened) == 3
    assert GGUFFile(made.path).metadata[embedded.RECEIPT].strip() == json.dumps(made.receipt, separators=(",", ":"))


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_receipt_longer_than_reserved_is_stored_whole(model, tmp_path, monkeypatch, to):
    pytest.importorskip(to)
    real = receipt.contents
    monkeypatch.setattr(receipt, "contents", lambda *arguments: real(*arguments) | {"text": "x" * 3000})
    made = convert(model, to, tmp_path / f"m.{to}")
    if to == "gguf":
        text = GGUFFile(made.path).metadata[embedded.RECEIPT]
    else:
        text = base.describe("onnx", made.path)[0][embedded.RECEIPT]
    assert receipt.parse(text) == made.receipt and made.receipt is not None and len(text.strip()) > 3000


def test_gguf_that_cannot_be_verified_has_no_receipt(model, tmp_path, monkeypatch):
    pytest.importorskip("gguf")

    def too_few(*arguments):
        raise DataError("the text has 1 tokens: too few to compare anything")

    monkeypatch.setattr(receipt, "measure_source", too_few)
    made = convert(model, "gguf", tmp_path / "m.gguf", settings=Converting("q8_0"))
    assert made.receipt is None and made.notes[-1].startswith("not verified: the text has 1 tokens")
    bare = convert(model, "gguf", tmp_path / "bare.gguf", settings=Converting("q8_0"), verify=False)
    assert made.path.read_bytes() == bare.path.read_bytes()


def test_folder_conversion_parses_config_once(model, tmp_path, monkeypatch):
    real, calls = LlamaConfig.from_dict.__func__, []

    def from_dict(cls, values, where="config.json"):
        calls.append(str(where))
        return real(cls, values, where)

    monkeypatch.setattr(LlamaConfig, "from_dict", classmethod(from_dict))
    convert(model, "gguf", tmp_path / "m.gguf", verify=False)
    assert len(calls) == 1


def test_receipt_leaves_most_of_the_gguf_package_alone(model, tmp_path):
    pytest.importorskip("gguf")
    script = (
        "import sys; from pathlib import Path; from edgekit.conversion.convert import convert\n"
        f"assert convert(Path({str(model)!r}), 'gguf', Path({str(tmp_path / 'm.gguf')!r})).receipt\n"
        "assert 'gguf.gguf_writer' not in sys.modules and 'gguf.gguf_reader' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
