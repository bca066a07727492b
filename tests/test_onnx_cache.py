"""The fused graph with an int8 KV cache: its scales, its loss, and invalid combinations."""

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import divergence

from edgekit.cli.main import main
from edgekit.conversion.calibration import CALIBRATION
from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, MissingExtraError, SettingError
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.inference.reference import Reference, rotate
from edgekit.settings import Converting, Running
from edgekit.tokenizers.load import from_files
from edgekit.utils import registry

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edgekit.converters import _onnx_cache  # noqa: E402  (of the converter that needs onnx)
from edgekit.converters._onnx_names import SINKS  # noqa: E402
from edgekit.runtimes import _onnx_fused  # noqa: E402

needs_new = pytest.mark.skipif(
    _onnx_fused.version(ort.__version__) < _onnx_fused.INT8_SINCE, reason="needs onnxruntime 1.27: int8 KV cache"
)
OTHER = (
    "One morning the old woman went into the forest with a basket, and there she met a fox who could not sleep. " * 3
)


def load(path):
    return registry.load("runtimes", "onnx").load(path, Running(threads=1))


def converted(source, out, quant="int8", kv_cache="int8"):
    return convert(source, "onnx", out, settings=Converting(quant=quant, kv_cache=kv_cache), verify=False).path


def ids_of(source, text):
    own = from_files(source.files, source.config.vocab_size)
    return ([] if own.bos is None else [own.bos]) + own.encode(text)


@pytest.fixture(scope="module", params=["bundled", "stories"])
def source(request):
    """A folder: ordinary heads of 64; and grouped ones of 8, which the graph pads to 16."""
    return request.getfixturevalue(request.param)


def test_scales_cover_all_values_of_the_text(source):
    source = open_folder(source)
    found = _onnx_cache.Cache(source)
    model = Reference(source)
    ids = ids_of(source, CALIBRATION)
    model.forward(ids[: model.context_length])
    for layer, (keys, values) in enumerate(model.cache):
        for reached, scales in zip((keys, values), found.scales(layer), strict=True):
            assert scales.shape == (source.config.num_key_value_heads, source.config.head_dim)
            most = np.abs(reached).max(axis=1)
            assert (most * 1.249 <= 127 * scales).all()
        # Values are not rotated: their scales are as small as possible, except for channels that hardly change.
        snug = np.isclose(127 * found.scales(layer)[1], 1.25 * np.abs(values).max(axis=1), rtol=1e-4)
        assert snug.mean() > 0.9 or len(ids) > model.context_length  # then there is more text, with larger values


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100_000))
def test_scales_of_keys_hold_at_every_position(seed, position):
    keys = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32)
    angles = np.full((3, 1), position, np.float32) * np.array([1, 0.3, 0.01, 1e-4], np.float32)
    assert (np.abs(rotate(keys, angles)).max(axis=1) <= _onnx_cache._pairs(keys) * (1 + 1e-5)).all()


@needs_new
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_int8_cache_loses_little_on_another_text(source, tmp_path, quant):
    checkpoint = open_folder(source)
    tokens = ids_of(checkpoint, OTHER)
    truth = Reference(checkpoint).forward(tokens, every=True)
    small, plain = (load(converted(source, tmp_path / f"{kv}.onnx", quant, kv)) for kv in ("int8", "f32"))
    got = small.forward(tokens, every=True)
    assert divergence(truth, got)[0] < divergence(truth, plain.forward(tokens, every=True))[0] + 0.015
    small.rewind(0)  # token by token, and after a rewind
    steps = np.stack([small.forward([token]) for token in tokens])
    assert divergence(truth, steps)[0] < divergence(truth, got)[0] + 0.005
    small.rewind(10)
    again = small.forward(tokens[10:], every=True)
    assert divergence(truth[10:], again)[0] < divergence(truth[10:], got[10:])[0] + 0.005


@needs_new
def test_scales_are_assigned_to_their_channels(stories, tmp_path):
    """Reversed within each head, they lose many times as much: no other test checks their order."""
    source = open_folder(stories)
    path = converted(stories, tmp_path / "a.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("key_scales", "value_scales")):
            scales = onnx.numpy_helper.to_array(tensor)
            assert scales.shape == (1, 4, 1, 16) and (scales[..., 4:8] == 1).all() == tensor.name.endswith("key_scales")
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(scales[..., ::-1]), tensor.name))
    onnx.save(model, tmp_path / "b.onnx")
    tokens = ids_of(source, OTHER)
    truth = Reference(source).forward(tokens, every=True)
    right, wrong = (divergence(truth, load(p).forward(tokens, every=True))[0] for p in (path, tmp_path / "b.onnx"))
    assert wrong > 10 * right


@needs_new
def test_attention_sink_does_not_change_logits(source, tmp_path):
    path = converted(source, tmp_path / "a.onnx")
    model = onnx.load(path)
    sinks = 0
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            sinks += node.input[11] == SINKS
            node.input[11] = ""
    assert sinks == open_folder(source).config.num_hidden_layers
    onnx.save(model, tmp_path / "b.onnx")
    with_it, without = load(path), load(tmp_path / "b.onnx")
    tokens = ids_of(open_folder(source), OTHER)
    right = without.forward(tokens, every=True)
    # Other kernels sum in another order, so now and then an activation is rounded to the next of 255 steps.
    assert divergence(right, with_it.forward(tokens, every=True))[0] < 5e-4
    with_it.rewind(0)
    assert divergence(right, np.stack([with_it.forward([token]) for token in tokens]))[0] < 5e-4


@needs_new
def test_int8_cache_has_a_quarter_of_the_bytes(bundled, tmp_path):
    small, plain = (load(converted(bundled, tmp_path / f"{kv}.onnx", kv_cache=kv)) for kv in ("int8", "f32"))
    sizes = [sum(array[0, :, 0].nbytes for array in runtime._cache.values()) for runtime in (small, plain)]
    assert 4 * sizes[0] == sizes[1]
    kept = registry.load("converters", "onnx").describe(tmp_path / "int8.onnx")[0]
    assert kept["edgekit.kv_cache"] == "int8"


@needs_new
def test_convert_command_with_int8_cache_has_a_receipt(bundled, tmp_path):
    path = tmp_path / "m.onnx"
    asked = ["convert", "-m", str(bundled), "--to", "onnx", "--quant", "int4", "--kv-cache", "int8", "-o", str(path)]
    run = CliRunner().invoke(main, asked)
    assert run.exit_code == 0 and "ONNX Runtime (1.27 or later)" in run.output, run.output
    shown = CliRunner().invoke(main, ["inspect", "-m", str(path), "--no-tensors"])
    assert "nodes · KV cache int8" in shown.output, shown.output
    done = CliRunner().invoke(
        main, ["run", "-m", str(path), "Once upon a time", "--seed", "1", "--max-new-tokens", "9"]
    )
    assert done.exit_code == 0 and len(done.output) > 10, done.output


def test_load_with_older_onnxruntime_names_the_version(bundled, tmp_path, monkeypatch):
    path = converted(bundled, tmp_path / "m.onnx")
    monkeypatch.setattr(ort, "__version__", "1.26.4")
    with pytest.raises(MissingExtraError, match=r"needs onnxruntime 1.27; this is 1.26.4: pip install -U onnxruntime"):
        load(path)


@needs_new
def test_load_cache_of_two_types_raises(bundled, tmp_path):
    model = onnx.load(converted(bundled, tmp_path / "a.onnx"))
    for node in (*model.graph.input, *model.graph.output):
        if node.name.endswith("0.key"):
            node.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "b.onnx")
    done = CliRunner().invoke(main, ["run", "-m", str(tmp_path / "b.onnx"), "Once", "--max-new-tokens", "2"])
    assert done.exit_code == 1 and done.output.startswith("Error: ") and len(done.output.splitlines()) == 1, done.output


def test_convert_int8_cache_invalid_settings_raise(bundled, tmp_path):
    for to, chosen, done in (
        ("onnx", Converting("fp32", kv_cache="int8"), "fp32 is exact, and so is its cache"),
        ("onnx", Converting("int8", kv_cache="int8", graph="portable"), "the portable one is float32"),
        ("gguf", Converting("q4_0", kv_cache="int8"), "kv_cache is a setting of onnx"),
        ("hf", Converting("f32", kv_cache="int8"), "kv_cache of onnx"),
    ):
        with pytest.raises(SettingError, match=done):
            convert(bundled, to, tmp_path / "m", settings=chosen)
    with pytest.raises(SettingError, match="kv_cache must be f32 or int8"):
        Converting("int8", kv_cache="f16")
    bare = write_model(tmp_path / "bare", LlamaConfig(130, 32, 32, 1, 2, 2, 16, 32))
    with pytest.raises(CheckpointError, match="bare has no tokenizer: --kv-cache int8 needs one"):
        convert(bare, "onnx", tmp_path / "m.onnx", settings=Converting("int8", kv_cache="int8"), verify=False)
    assert not (tmp_path / "m.onnx").exists()
