"""The fused graph with an int8 KV cache: its scales, what it costs, and what it refuses."""

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


def made(source, out, quant="int8", kv_cache="int8"):
    return convert(source, "onnx", out, settings=Converting(quant=quant, kv_cache=kv_cache), verify=False).path


def ids_of(source, text):
    own = from_files(source.files, source.config.vocab_size)
    return ([] if own.bos is None else [own.bos]) + own.encode(text)


@pytest.fixture(scope="module", params=["bundled", "stories"])
def source(request):
    """Ordinary heads of 64; and grouped ones of 8, which the graph fills up to 16: a folder."""
    return request.getfixturevalue(request.param)


def test_there_is_room_for_all_that_the_text_reached(source):
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
        # Values are not turned: their scales are no larger than they must be, but for channels that hardly move.
        snug = np.isclose(127 * found.scales(layer)[1], 1.25 * np.abs(values).max(axis=1), rtol=1e-4)
        assert snug.mean() > 0.9 or len(ids) > model.context_length  # then there is more text, which reached further


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100_000))
def test_no_position_turns_a_key_beyond_its_pair(seed, position):
    keys = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32)
    angles = np.full((3, 1), position, np.float32) * np.array([1, 0.3, 0.01, 1e-4], np.float32)
    assert (np.abs(rotate(keys, angles)).max(axis=1) <= _onnx_cache._pairs(keys) * (1 + 1e-5)).all()


@needs_new
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_it_costs_little_on_a_text_that_it_never_saw(source, tmp_path, quant):
    checkpoint = open_folder(source)
    tokens = ids_of(checkpoint, OTHER)
    truth = Reference(checkpoint).forward(tokens, every=True)
    small, plain = (load(made(source, tmp_path / f"{kv}.onnx", quant, kv)) for kv in ("int8", "f32"))
    got = small.forward(tokens, every=True)
    assert divergence(truth, got)[0] < divergence(truth, plain.forward(tokens, every=True))[0] + 0.015
    small.rewind(0)  # token by token, and after taking some back
    steps = np.stack([small.forward([token]) for token in tokens])
    assert divergence(truth, steps)[0] < divergence(truth, got)[0] + 0.005
    small.rewind(10)
    again = small.forward(tokens[10:], every=True)
    assert divergence(truth[10:], again)[0] < divergence(truth[10:], got[10:])[0] + 0.005


@needs_new
def test_scales_belong_to_their_channels(stories, tmp_path):
    """Turned round within each head, they cost many times as much: nothing else would tell that they are in order."""
    source = open_folder(stories)
    path = made(stories, tmp_path / "a.onnx")
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
def test_the_sink_of_its_attention_changes_nothing(source, tmp_path):
    path = made(source, tmp_path / "a.onnx")
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
    # Other kernels sum in another order, and an activation now and then is rounded to the next of 255 steps.
    assert divergence(right, with_it.forward(tokens, every=True))[0] < 5e-4
    with_it.rewind(0)
    assert divergence(right, np.stack([with_it.forward([token]) for token in tokens]))[0] < 5e-4


@needs_new
def test_the_cache_is_a_quarter(bundled, tmp_path):
    small, plain = (load(made(bundled, tmp_path / f"{kv}.onnx", kv_cache=kv)) for kv in ("int8", "f32"))
    sizes = [sum(array[0, :, 0].nbytes for array in runtime._cache.values()) for runtime in (small, plain)]
    assert 4 * sizes[0] == sizes[1]
    kept = registry.load("converters", "onnx").describe(tmp_path / "int8.onnx")[0]
    assert kept["edgekit.kv_cache"] == "int8"


@needs_new
def test_from_the_command_line_with_a_receipt(bundled, tmp_path):
    path = tmp_path / "m.onnx"
    asked = ["convert", "-m", str(bundled), "--to", "onnx", "--quant", "int4", "--kv-cache", "int8", "-o", str(path)]
    run = CliRunner().invoke(main, asked)
    assert run.exit_code == 0 and "ONNX Runtime (1.27 or later)" in run.output, run.output
    shown = CliRunner().invoke(main, ["inspect", "-m", str(path), "--no-tensors"])
    assert "nodes · KV cache int8" in shown.output, shown.output
    said = CliRunner().invoke(
        main, ["run", "-m", str(path), "Once upon a time", "--seed", "1", "--max-new-tokens", "9"]
    )
    assert said.exit_code == 0 and len(said.output) > 10, said.output


def test_an_older_onnxruntime_says_so(bundled, tmp_path, monkeypatch):
    path = made(bundled, tmp_path / "m.onnx")
    monkeypatch.setattr(ort, "__version__", "1.26.4")
    with pytest.raises(MissingExtraError, match=r"needs onnxruntime 1.27; this is 1.26.4: pip install -U onnxruntime"):
        load(path)


def test_a_page_refuses_it(bundled, tmp_path):
    """Its core binds float32 caches: better here than in somebody's browser."""
    from edgekit.web.export import export_web

    path = made(bundled, tmp_path / "m.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekit.web.npm.assets", lambda *_, **__: None)
        with pytest.raises(CheckpointError, match="m.onnx has an int8 KV cache, a page's is float32: convert with"):
            export_web([path], tmp_path / "site")
    assert not (tmp_path / "site").exists()


@needs_new
def test_a_cache_of_two_types_is_one_line(bundled, tmp_path):
    model = onnx.load(made(bundled, tmp_path / "a.onnx"))
    for node in (*model.graph.input, *model.graph.output):
        if node.name.endswith("0.key"):
            node.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, tmp_path / "b.onnx")
    said = CliRunner().invoke(main, ["run", "-m", str(tmp_path / "b.onnx"), "Once", "--max-new-tokens", "2"])
    assert said.exit_code == 1 and said.output.startswith("Error: ") and len(said.output.splitlines()) == 1, said.output


def test_refusals(bundled, tmp_path):
    for to, chosen, said in (
        ("onnx", Converting("fp32", kv_cache="int8"), "fp32 is exact, and so is its cache"),
        ("onnx", Converting("int8", kv_cache="int8", graph="portable"), "the portable one is float32"),
        ("gguf", Converting("q4_0", kv_cache="int8"), "kv_cache is a setting of onnx"),
        ("hf", Converting("f32", kv_cache="int8"), "kv_cache of onnx"),
    ):
        with pytest.raises(SettingError, match=said):
            convert(bundled, to, tmp_path / "m", settings=chosen)
    with pytest.raises(SettingError, match="kv_cache must be f32 or int8"):
        Converting("int8", kv_cache="f16")
    bare = write_model(tmp_path / "bare", LlamaConfig(130, 32, 32, 1, 2, 2, 16, 32))
    with pytest.raises(CheckpointError, match="bare has no tokenizer: --kv-cache int8 needs one"):
        convert(bare, "onnx", tmp_path / "m.onnx", settings=Converting("int8", kv_cache="int8"), verify=False)
    assert not (tmp_path / "m.onnx").exists()
