"""Where other programs put the files of a model, and what they call them."""

import os
import shutil
import sys

import numpy as np
import pytest
from helpers import write_model

from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.formats.onnx import config_of, files_of
from edgekit.inference.reference import Reference
from edgekit.settings import Converting, Running
from edgekit.utils import registry

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=32, tie_word_embeddings=True,
)  # fmt: skip
IDS = [3, 1, 4, 1, 5]


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "m", CONFIG)


def test_onnx_files_of_transformers_js_are_in_the_folder_above(folder):
    (folder / "onnx").mkdir()
    path = folder / "onnx" / "model.onnx"
    assert config_of(files_of({}, path), path) == CONFIG
    shutil.copy(folder / "config.json", folder / "onnx")
    assert list(files_of({}, path)) == ["config.json"]
    (folder / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        config_of(files_of({}, folder / "other" / "model.onnx"), folder / "other" / "model.onnx")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are always Unicode there")
@pytest.mark.parametrize("runtime, to, quant", [("llamacpp", "gguf", "f32"), ("onnx", "onnx", "fp32")])
def test_runtime_opens_a_path_that_is_not_utf8(folder, runtime, to, quant, tmp_path):
    pytest.importorskip({"llamacpp": "llama_cpp", "onnx": "onnxruntime"}[runtime])
    made = convert(folder, to, tmp_path / ("m." + to), settings=Converting(quant=quant)).path
    path = made.rename(tmp_path / os.fsdecode(b"raw\xff." + to.encode()))
    expected = Reference(open_folder(folder)).forward(IDS)
    opened = registry.load("runtimes", runtime).load(path, Running(kv_type="f32"))
    np.testing.assert_allclose(opened.forward(IDS), expected, atol=1e-4)


def portable(folder, out):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("optimum")
    return convert(folder, "onnx", out, settings=Converting(quant="fp32", graph="portable"), verify=False).path


def check(path, folder, bound):
    """The logits of a prompt, and of the tokens after it, one by one."""
    expected = Reference(open_folder(folder)).forward(IDS, every=True)
    opened = registry.load("runtimes", "onnx").load(path, Running())
    first = opened.forward(IDS[:3], every=True)
    rows = [opened.forward([token]) for token in IDS[3:]]
    assert all(row.dtype == np.float32 for row in (first, *rows))
    np.testing.assert_allclose(np.concatenate([first, np.stack(rows)]), expected, atol=bound)
    opened.rewind(0)
    np.testing.assert_allclose(opened.forward(IDS, every=True), expected, atol=bound)


def test_onnx_float16_cache_and_logits_run(folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = portable(folder, tmp_path / "m.onnx")
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    half = float16.convert_float_to_float16(onnx.load(path), keep_io_types=False)
    onnx.save(half, path)
    check(path, folder, 1e-2)


def test_onnx_use_cache_branch_is_fed(folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = portable(folder, tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1]))
    model.graph.node.append(onnx.helper.make_node("Identity", ["use_cache_branch"], ["unused_branch"]))
    onnx.save(model, path)
    check(path, folder, 1e-4)
