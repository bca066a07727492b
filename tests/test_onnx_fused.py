"""The fused ONNX graph, its quantizer and its runtime, compared with transformers and ONNX Runtime's quantizer."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from helpers import write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import divergence, hf_logits, hugging_face

from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, ContextError, RuntimeFailure, SettingError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.settings import Converting, Running
from edgekit.utils import registry

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx_damage import damaged, drop_output, rename_input, with_config  # noqa: E402  (needs onnx)

from edgekit.converters import _onnx_blocks as blocks  # noqa: E402  (needs only numpy, but is the subject here)
from edgekit.converters import _onnx_choice as choice  # noqa: E402
from edgekit.converters import _onnx_types as types  # noqa: E402

# vocab, hidden, ffn, layers, heads, kv heads, head_dim, context. Attention may be wider or narrower than hidden_size.
SHAPES = {
    "odd": LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0),
    "tied": LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, tie_word_embeddings=True),
    "mha32": LlamaConfig(200, 96, 160, 2, 3, 3, 32, 64, tie_word_embeddings=True),
    "gqa64": LlamaConfig(300, 128, 172, 2, 6, 2, 64, 96),
    "mqa128": LlamaConfig(200, 64, 96, 2, 5, 1, 128, 64, tie_word_embeddings=True),
    "wide": LlamaConfig(130, 100, 60, 1, 2, 1, 8, 64, tie_word_embeddings=True),
}
NAMES = ["stories", *SHAPES]
TIED = SHAPES["tied"]
QUANTIZED = ["int8", "int4", "int4_pure"]
TOKENS = np.random.default_rng(3).integers(0, 130, 48).tolist()


def load(path, threads=1):
    return registry.load("runtimes", "onnx").load(path, Running(threads=threads))


def describe(path):
    return registry.load("converters", "onnx").describe(path)


def to_onnx(source, out, quant=None, **more):
    return convert(source, "onnx", out, settings=Converting(quant, **more), verify=False)


@pytest.fixture(scope="session")
def models(request, tmp_path_factory):
    """name -> folder."""
    root = tmp_path_factory.mktemp("fused")

    def get(name):
        if name not in SHAPES:
            return request.getfixturevalue(name)
        folder = root / name
        return folder if folder.is_dir() else write_model(folder, SHAPES[name], std=0.2)

    return get


@pytest.fixture(scope="session")
def exported(models, tmp_path_factory):
    """(name, quant) -> path; each is converted once."""
    root, done = tmp_path_factory.mktemp("exports"), {}

    def make(name, quant="fp32"):
        if (name, quant) not in done:
            done[name, quant] = to_onnx(models(name), root / f"{name}-{quant}.onnx", quant).path
        return done[name, quant]

    return make


@pytest.fixture(scope="session")
def references(models):
    """name -> Hugging Face's logits of TOKENS."""
    done = {}

    def get(name):
        if name not in done:
            done[name] = hf_logits(models(name), TOKENS)
        return done[name]

    return get


# ----------------------------------------------------------------------------- float32


@pytest.mark.parametrize("name", NAMES)
def test_fused_logits_equal_hugging_face(exported, references, name):
    runtime, expected = load(exported(name)), references(name)
    assert np.abs(runtime.forward(TOKENS, every=True) - expected).max() < 1e-4
    for length in (47, 20, 1, 0):  # in pieces, and after a rewind
        runtime.rewind(length)
        again = [runtime.forward(TOKENS[i : i + 7], every=True) for i in range(length, 48, 7)]
        assert np.abs(np.concatenate(again) - expected[length:]).max() < 1e-4
    runtime.rewind(0)
    steps = [runtime.forward([token]) for token in TOKENS]
    assert np.abs(np.stack(steps) - expected).max() < 1e-4
    runtime.rewind(0)
    assert np.abs(runtime.forward(TOKENS) - expected[-1]).max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_fused_greedy_tokens_equal_generate(models, exported, name):
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[1, 43, 47]])
    theirs = hugging_face(models(name)).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=0
    )[0, 3:].tolist()  # fmt: skip
    runtime, ours = load(exported(name), threads=2), []
    logits = runtime.forward(ids[0].tolist())
    for _ in theirs:
        ours.append(int(logits.argmax()))
        logits = runtime.forward(ours[-1:])
    assert ours == theirs


def test_fused_rewind_and_continue_equals_a_fresh_run(exported):
    runtime, other = load(exported("gqa64")), list(reversed(TOKENS))
    fresh = runtime.forward(TOKENS, every=True)
    runtime.rewind(0)
    runtime.forward(TOKENS[:20] + other[20:])
    for keep in (20, 5, 0):
        runtime.rewind(keep)
        assert (runtime.forward(TOKENS[keep:], every=True) == fresh[keep:]).all()  # bit for bit
    runtime.rewind(48)
    assert runtime.length == 48


def test_fused_long_prefill_runs_in_pieces(models, tmp_path, monkeypatch):
    from edgekit.runtimes import _onnx_fused

    folder = write_model(tmp_path / "m", dataclasses.replace(SHAPES["mha32"], max_position_embeddings=2048), std=0.2)
    runtime = load(to_onnx(folder, tmp_path / "m.onnx", "fp32").path)
    tokens = np.random.default_rng(1).integers(0, 200, 1100).tolist()
    assert len(tokens) > 2 * _onnx_fused.CHUNK
    expected = hf_logits(folder, tokens)
    assert np.abs(runtime.forward(tokens, every=True) - expected).max() < 1e-4
    runtime.rewind(0)
    assert np.abs(runtime.forward(tokens) - expected[-1]).max() < 1e-4
    assert runtime.length == 1100


def test_fused_whole_context_is_usable_and_longer_raises(models, exported):
    runtime = load(exported("gqa64"))
    tokens = [*TOKENS, *TOKENS]
    assert runtime.context_length == len(tokens) == 96
    runtime.forward(tokens[:-1])
    assert np.abs(runtime.forward(tokens[-1:]) - hf_logits(models("gqa64"), tokens)[-1]).max() < 1e-4
    with pytest.raises(ContextError, match="97 tokens .* 96"):
        runtime.forward([1])
    for bad in ([], [300], [-1]):
        with pytest.raises(RuntimeFailure):
            runtime.forward(bad)
    with pytest.raises(RuntimeFailure, match="cannot keep 97"):
        runtime.rewind(97)
    assert runtime.length == 96
    runtime.rewind(0)
    with pytest.raises(ContextError):
        runtime.forward([*tokens, 1])
    assert runtime.length == 0


def test_fused_forward_returns_arrays_of_the_caller(exported):
    runtime = load(exported("tied"))
    for tokens, every in (([1, 2, 3], False), ([4], False), ([5], True), ([6, 7], True)):
        first = runtime.forward(tokens, every=every)
        kept = first.copy()
        runtime.forward([8])
        assert (first == kept).all() and first.dtype == np.float32 and first.flags.writeable
        assert first.shape == ((len(tokens), 300) if every else (300,))
        first[:] = 0
    runtime.rewind(3)
    assert runtime.forward([4]).any()


def test_fused_step_writes_into_one_buffer_and_binds_nothing(exported, monkeypatch):
    runtime = load(exported("tied"))
    runtime.forward([1, 2, 3])
    before = {name: array.ctypes.data for name, array in runtime._cache.items()}
    monkeypatch.setattr(type(runtime._step), "bind_ortvalue_input", None)
    monkeypatch.setattr(type(runtime._step), "bind_ortvalue_output", None)
    for token in (4, 5):
        runtime.forward([token])
    assert {name: array.ctypes.data for name, array in runtime._cache.items()} == before
    for array in runtime._cache.values():
        rows = array[0].any(axis=(0, 2))
        assert rows[:5].all() and not rows[5:].any()


def test_fused_step_keeps_its_bound_arrays_alive(exported, monkeypatch):
    """ONNX Runtime 1.27 reads the array's memory without keeping a reference to the array."""
    module = registry.load("runtimes", "_onnx_fused")
    bound = []
    monkeypatch.setattr(module, "_bind", lambda binding, *arrays: bound.extend(arrays))
    runtime = load(exported("tied"))
    kept = [id(value) for value in vars(runtime).values()]
    assert len(bound) == 3 and all(id(array) in kept for array in bound)


def start_with_capacity(runtime, monkeypatch, tokens):
    """Make new caches start with a capacity of some tokens, of the size of those of `runtime`."""
    each = sum(array[0, :, 0].nbytes for array in runtime._cache.values())
    monkeypatch.setattr(registry.load("runtimes", "_onnx_fused"), "INITIAL_BYTES", tokens * each)


@pytest.mark.parametrize("name", ["gqa64", "odd"])
def test_fused_growing_cache_keeps_its_contents(exported, monkeypatch, name):
    whole = load(exported(name))
    start_with_capacity(whole, monkeypatch, 16)
    grown = load(exported(name))
    assert (whole._capacity, grown._capacity) == (whole.context_length, 16)
    sizes = []
    # Full, exceeded by a step, exceeded by a prefill, rewound and exceeded again, up to the end of the context.
    for keep, part in ((0, 16), (16, 1), (17, 20), (5, 11), (16, 40), (3, 1), (4, 60)):
        ids = TOKENS[:part] + TOKENS[: part - len(TOKENS[:part])]
        for runtime in (whole, grown):
            runtime.rewind(keep)
        for every in (False, True):
            right, found = (runtime.forward(ids, every=every) for runtime in (whole, grown))
            assert (right == found).all() and right.shape == found.shape
            for runtime in (whole, grown):
                runtime.rewind(keep)
        assert (whole.forward(ids) == grown.forward(ids)).all()
        sizes.append(grown._capacity)
    assert sizes == [16, 32, 64, 64, 64, 64, 64] and all(len(a[0, 0]) == 64 for a in grown._cache.values())
    with pytest.raises(ContextError, match=f"fit into the context of {grown.context_length}"):
        grown.forward(TOKENS[:40])
    for runtime in (whole, grown):
        runtime.rewind(60)
    assert (whole.forward(TOKENS[:4]) == grown.forward(TOKENS[:4])).all()


def test_fused_cache_that_cannot_grow_raises_and_keeps_its_contents(exported, monkeypatch):
    runtime = load(exported("tied"))
    start_with_capacity(runtime, monkeypatch, 16)
    runtime = load(exported("tied"))
    runtime.forward(TOKENS[:16])

    def full(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "zeros", full)
        with pytest.raises(RuntimeFailure, match="no memory for a KV cache of 32 tokens"):
            runtime.forward([1])
    assert runtime.length == 16
    right = load(exported("tied"))
    right.forward(TOKENS[:16])
    assert (runtime.forward([1]) == right.forward([1])).all()


def test_fused_fp16_is_stored_as_float16_and_cast(models, exported, references, tmp_path):
    half = write_model(tmp_path / "half", SHAPES["odd"], dtype=np.float16, std=0.2)
    path = to_onnx(half, tmp_path / "half.onnx", "fp16").path
    assert np.abs(load(path).forward(TOKENS, every=True) - hf_logits(half, TOKENS)).max() < 1e-4
    for name in ("odd", "tied"):
        got = load(exported(name, "fp16")).forward(TOKENS, every=True)
        assert 0 < np.abs(got - references(name)).max() < 0.05
        matrices = [row for row in describe(exported(name, "fp16"))[1] if len(row.shape) == 2]
        assert {row.type for row in matrices} == {"fp16"}
        assert exported(name, "fp16").stat().st_size < 0.65 * exported(name).stat().st_size


# ----------------------------------------------------------------------------- 8 and 4 bits


@pytest.mark.parametrize("quant", QUANTIZED)
@pytest.mark.parametrize("name", NAMES)
def test_fused_logits_equal_those_of_dequantized_weights(models, exported, tmp_path, name, quant):
    """Compared with Hugging Face's model of the file's weights, with float32 activations, and as the file has them."""
    from safetensors.numpy import save_file

    path = exported(name, quant)
    stored = {tensor.name: tensor.values for tensor in registry.load("converters", "onnx").weights(path)}
    assert stored.keys() == open_folder(models(name)).config.shapes().keys()
    folder = tmp_path / "held"
    folder.mkdir()
    save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((models(name) / "config.json").read_bytes())
    expected = hf_logits(folder, TOKENS)

    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                assert attribute.i == 4
                attribute.i = 1
    onnx.save(model, tmp_path / "level1.onnx")
    exact = load(tmp_path / "level1.onnx").forward(TOKENS, every=True)
    assert np.abs(exact - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    rounded = load(path).forward(TOKENS, every=True)
    assert np.sqrt(np.square(rounded - expected).mean()) < 0.1 * expected.std()


# stories260K: the table in converters/onnx.py was measured on more text. Seeded weights give flat logits, whose top-1
# means little.
@pytest.mark.parametrize("quant, most_kl, least_top1", [("int8", 0.005, 0.94), ("int4", 0.15, 0.75),
                                                        ("int4_pure", 0.25, 0.7)])  # fmt: skip
def test_fused_quantized_trained_model_is_close_to_source(models, exported, quant, most_kl, least_top1):
    torch = pytest.importorskip("torch")
    hf = hugging_face(models("stories"))
    tokens = hf.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=200)[0].tolist()
    with torch.inference_mode():
        source = hf(torch.tensor([tokens])).logits[0].numpy()
    kl, top1 = divergence(source, load(exported("stories", quant)).forward(tokens, every=True))
    assert 0 < kl < most_kl and top1 > least_top1, (kl, top1)


@pytest.mark.parametrize("quant", QUANTIZED)
def test_fused_splitting_a_prompt_changes_logits_little(stentor, tmp_path, quant):
    """A single token uses other kernels than several, and in blocks of 128 so does an odd one at the end. Where sums
    differ in the last digit an activation may be rounded the other way; no piece's logits differ by more than that.
    """
    runtime = load(to_onnx(stentor, tmp_path / "a.onnx", quant).path)
    tokens = [TOKENS[i % 48] for i in range(96)]
    whole = runtime.forward(tokens, every=True)
    for size in (1, 2, 3, 7, 16, 46):
        runtime.rewind(0)
        cut = np.concatenate([runtime.forward(tokens[i : i + size], every=True) for i in range(0, 96, size)])
        assert (
            np.sqrt(np.square(cut - whole).mean()) < 0.05 * whole.std() and np.abs(cut - whole).max() < whole.std() / 2
        )
        if size in (2, 16):  # pieces of pairs are multiplied like the whole: equal bit for bit
            assert (cut == whole).all()


def test_fused_sizes_of_a_12m_model(stentor, tmp_path):
    """12,294,400 parameters and a vocabulary of 208 KB, which is 278 KB as text."""
    for quant, most in (("int8", 14.5e6), ("int4", 9.5e6), ("int4_pure", 8.5e6)):
        assert to_onnx(stentor, tmp_path / f"{quant}.onnx", quant).path.stat().st_size < most, quant
    tokens = np.random.default_rng(0).integers(0, 8000, 64).tolist()
    got = load(tmp_path / "int8.onnx").forward(tokens, every=True)
    kl, top1 = divergence(hf_logits(stentor, tokens), got)
    assert kl < 0.003 and top1 > 0.8, (kl, top1)


def test_fused_int4_keeps_head_and_chosen_matrices_at_8_bits(models, exported):
    """tests/test_onnx_choice.py tests the choice. Without a measurement it is the first three layers, at most half."""
    for layers, eight in ((1, 0), (2, 1), (5, 2), (6, 3), (12, 3), (30, 3)):
        names = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(layers)]
        rule = types.first_layers(dataclasses.replace(TIED, num_hidden_layers=layers))
        assert [rule.bits(name) for name in names] == eight * [8] + (layers - eight) * [4]
    for name in ("odd", "tied"):
        chosen = choice.choose(open_folder(models(name))).types
        for row in describe(exported(name, "int4"))[1]:
            if row.type in ("int8", "int4"):
                eight = "layers" not in row.name or types.matrix_of(row.name) in chosen.eight
                assert row.type == ("int8" if eight else "int4"), row
                assert "8 bits" in row.note or "are padded to" in row.note or not eight
        assert {row.type for row in describe(exported(name, "int4"))[1]} == {"int8", "int4", "fp32", "mixed"}
        assert {row.type for row in describe(exported(name, "int4_pure"))[1]} == {"int4", "fp32", "mixed"}
        assert {row.type for row in describe(exported(name, "int8"))[1]} == {"int8", "fp32", "mixed"}


@pytest.mark.parametrize("quant", ["fp32", "fp16", *QUANTIZED])
def test_fused_tied_table_is_stored_once(exported, quant):
    for name, count in (("tied", 1), ("odd", 2)):
        tables = [row for row in describe(exported(name, quant))[1] if 300 in row.shape]
        assert len(tables) == count, tables


# ----------------------------------------------------------------------------- the quantizer


def matrices(bits):
    widths = st.sampled_from([16, 32, 48, 64, 100, 172, 256])
    return st.tuples(
        st.integers(0, 2**32 - 1), st.integers(1, 9), widths, st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]),
        st.sampled_from(["normal", "uniform", "peaked", "sparse", "positive"]),
    ).map(lambda drawn: matrix(*drawn))  # fmt: skip


def matrix(seed, rows, width, scale, kind):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, width))
    if kind == "uniform":
        values = rng.uniform(-1, 1, (rows, width))
    elif kind == "peaked":
        values = values**5
    elif kind == "sparse":
        values = values * (rng.random((rows, width)) < 0.05)
    elif kind == "positive":
        values = np.abs(values)
    return (scale * values).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_blocks_quantize_rounds_to_the_nearest_level(bits, data):
    values = data.draw(matrices(bits))
    size, half = blocks.block_size(values.shape[1], data.draw(st.sampled_from([32, 64, 128]))), 2 ** (bits - 1)
    packed, scales = blocks.quantize(values, bits, size)
    count = -(-values.shape[1] // size)
    assert packed.shape == (len(values), count, size * bits // 8) and packed.dtype == np.uint8
    assert scales.shape == (len(values), count) and scales.dtype == np.float32 and np.isfinite(scales).all()
    back = blocks.dequantize(packed, scales, bits, values.shape[1])
    step = np.abs(np.repeat(scales, size, axis=1)[:, : values.shape[1]]).astype(np.float64)
    signed = np.repeat(scales, size, axis=1)[:, : values.shape[1]].astype(np.float64)
    low, high = np.minimum(-half * signed, (half - 1) * signed), np.maximum(-half * signed, (half - 1) * signed)
    beyond = np.maximum(np.maximum(low - values, values - high), 0)
    assert (np.abs(back - values.astype(np.float64)) <= np.maximum(step / 2, beyond) * (1 + 1e-4)).all()
    if bits == 8:  # only the far end of the other sign is clipped
        assert (beyond <= 1.0001 * step).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_blocks_fitted_scales_are_never_worse_than_plain_ones(data):
    values = data.draw(matrices(4))
    size = blocks.block_size(values.shape[1], data.draw(st.sampled_from([32, 128])))

    def error():
        back = blocks.dequantize(*blocks.quantize(values, 4, size), 4, values.shape[1])
        return np.square(back - values.astype(np.float64)).sum()

    searched = error()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CANDIDATES", ())
        assert searched <= error() * (1 + 1e-5) + 1e-12 * np.square(values.astype(np.float64)).sum()


@pytest.mark.parametrize("bits, width, largest", [(4, 256, 32), (4, 256, 128), (4, 176, 128), (4, 172, 32),
                                                  (8, 256, 128), (8, 172, 128)])  # fmt: skip
def test_blocks_without_search_equal_onnxruntimes_quantizer(monkeypatch, bits, width, largest):
    monkeypatch.setattr(blocks, "CANDIDATES", ())
    theirs = getattr(ort.capi._pybind_state, f"quantize_matmul_{bits}bits", None)
    if theirs is None:
        pytest.skip("this ONNX Runtime has no such quantizer")
    values, rows = matrix(0, 40, width, 1.0, "normal"), 40
    size = blocks.block_size(width, largest)
    packed, scales = blocks.quantize(values, bits, size)
    count = packed.shape[1]
    other, other_scales = np.zeros_like(packed), np.zeros(rows * count, np.float32)
    points = np.zeros(rows * -(-count * bits // 8), np.uint8)
    theirs(other, np.ascontiguousarray(values.T), other_scales, points, size, rows, width, True)
    assert (scales.ravel() == other_scales).all()
    mine, expected = (blocks.dequantize(p, scales, bits, width) for p in (packed, other))
    # A value halfway between two levels may be rounded either way.
    assert (mine != expected).mean() < 0.001 and np.abs(mine - expected).max() <= 1.001 * np.abs(scales).max()


def test_blocks_quantize_handles_extreme_weights(tmp_path):
    from safetensors.numpy import save_file

    folder = write_model(tmp_path / "m", SHAPES["odd"])
    tensors = open_folder(folder).tensors
    tensors["model.embed_tokens.weight"][5] = 0  # a row of zeros has no scale
    tensors["lm_head.weight"][7] = 0
    tensors["lm_head.weight"][8] = 1e-42
    tensors["lm_head.weight"][9, :2] = 3e38, -3e38
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for quant in QUANTIZED:
        path = to_onnx(folder, tmp_path / f"{quant}.onnx", quant).path
        for tensor in onnx.load(path).graph.initializer:
            assert tensor.name.split("_")[-1] != "scale" or np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
        logits = load(path).forward([5, 7, 5], every=True)
        assert np.abs(logits[:, 7:9]).max() < 1e-4 and not np.isnan(np.delete(logits, 9, axis=1)).any()
    with pytest.raises(CheckpointError, match=r"lm_head.weight has a value of 3e\+38, more than fp16"):
        to_onnx(folder, tmp_path / "half.onnx", "fp16")
    assert not (tmp_path / "half.onnx").exists()


# ----------------------------------------------------------------------------- the file


def test_convert_fused_needs_neither_torch_nor_onnxruntime(models, tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "for name in ('torch', 'transformers', 'optimum', 'onnxruntime'): sys.modules[name] = None\n"
        "from edgekit.conversion.convert import convert; from edgekit.settings import Converting\n"
        f"convert(Path({str(models('tied'))!r}), 'onnx', Path({str(tmp_path / 'm.onnx')!r}), "
        "settings=Converting('int4'), verify=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert load(tmp_path / "m.onnx").forward([1]).shape == (300,)


def test_fused_run_needs_only_onnxruntime(exported):
    script = (
        "import sys; from pathlib import Path; from edgekit.settings import Running\n"
        "from edgekit.utils import registry\n"
        f"path = Path({str(exported('tied', 'int8'))!r})\n"
        "runtime = registry.load('runtimes', 'onnx').load(path, Running(threads=1))\n"
        "runtime.forward([1, 2, 3]); runtime.rewind(2); runtime.forward([3])\n"
        "bad = {m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'onnx', 'optimum', 'google'}\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("quant", ["fp32", "fp16", *QUANTIZED])
def test_fused_file_equals_onnxs_serialization(exported, quant):
    """It is written piece by piece, but equals the canonical serialization byte for byte."""
    data = exported("odd", quant).read_bytes()
    model = onnx.load_from_string(data)
    assert model.SerializeToString(deterministic=True) == data
    onnx.shape_inference.infer_shapes(model, check_type=True)
    used = {name for node in model.graph.node for name in node.input if name}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    names = [name for node in model.graph.node for name in node.output if name]
    assert len(names) == len(set(names))


def test_fused_graph_passes_the_checker_except_for_its_norm(exported):
    model = onnx.load(exported("odd", "fp32"))
    for node in list(model.graph.node):
        if node.op_type == "SimplifiedLayerNormalization":  # ONNX Runtime's, in the standard's domain
            node.domain = "com.microsoft"
    onnx.checker.check_model(model)


@pytest.mark.parametrize("quant", ["fp16", "int8", "int4"])
def test_fused_conversion_is_deterministic(models, exported, tmp_path, quant):
    again = to_onnx(models("odd"), tmp_path / "again.onnx", quant).path
    assert again.read_bytes() == exported("odd", quant).read_bytes()


def test_fused_graph_has_few_nodes(exported):
    _, _, operators = describe(exported("tied", "int8"))
    assert operators["com.microsoft.MatMulNBits"] == 4 * 3 + 1
    assert operators["com.microsoft.GroupQueryAttention"] == 3
    assert sum(operators.values()) <= 10 * 3 + 9
    assert list(operators.values()) == sorted(operators.values(), reverse=True)


@pytest.mark.parametrize("quant", ["fp32", "fp16", *QUANTIZED])
def test_describe_fused_names_every_weight(models, exported, tmp_path, quant):
    result = to_onnx(models("odd"), tmp_path / "m.onnx", quant)
    metadata, rows, _ = describe(result.path)
    assert result.tensors == rows and "ONNX Runtime" in result.notes[0]
    assert (metadata["edgekit.graph"], metadata["edgekit.quant"]) == ("fused", quant)
    layer = [f"self_attn.{n}_proj" for n in ("qkv", "o")] + [f"mlp.{n}_proj" for n in ("gate_up", "down")]
    layer += ["input_layernorm", "post_attention_layernorm"]
    expected = {f"model.layers.{i}.{name}.weight" for i in range(3) for name in layer}
    expected |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "(constants of the graph)"}
    assert {row.name for row in rows} == expected and len(rows) == len(expected)
    sizes = {tensor.name: len(tensor.raw_data) for tensor in onnx.load(result.path).graph.initializer}
    assert sum(row.bytes for row in rows) == sum(sizes.values())
    found = {row.name: row for row in rows}
    if quant == "int8":
        row = found["model.layers.1.mlp.down_proj.weight"]
        assert row.shape == (48, 100) and row.bytes == 48 * (128 + 4 * 4)
        assert "rows of 100 are padded to 128" in row.note


def test_fused_file_embeds_the_model_files(models, exported):
    runtime, source = load(exported("stories", "int4")), open_folder(models("stories"))
    assert runtime.files == source.files and "tokenizer.json" in runtime.files
    assert (runtime.vocab_size, runtime.context_length) == (512, 512)
    metadata, _, _ = describe(exported("stories", "int4"))
    assert metadata["edgekit.source.sha256"] == source.sha256
    assert embedded.files_in_texts(metadata, "m") == source.files


def test_convert_default_is_fused_int8(models, tmp_path):
    to_onnx(models("tied"), tmp_path / "m.onnx")
    metadata, _, _ = describe(tmp_path / "m.onnx")
    assert (metadata["edgekit.graph"], metadata["edgekit.quant"]) == ("fused", "int8")
    module = registry.load("converters", "onnx")
    assert module.QUANTS[0] == "fp32" and module.DEFAULT == "int8"


def test_convert_fused_progress_is_complete(models, tmp_path):
    steps = []

    def progress(items, what, total):
        for item in items:
            steps.append((what, total))
            yield item

    settings = Converting("int4")
    convert(models("tied"), "onnx", tmp_path / "m.onnx", settings=settings, verify=False, progress=progress)
    assert len(steps) == steps[0][1]


# ----------------------------------------------------------------------------- invalid input


def test_convert_fused_invalid_settings_raise(models, tmp_path):
    for chosen, message in (
        (Converting("q4_0"), "fp32, fp16, int8, int4, int4_pure"),
        (Converting("int8", reduce_range=True), "reduce_range .* --graph portable"),
        (Converting("int8", embedding_type="q8_0"), "embedding_type"),
    ):
        with pytest.raises(SettingError, match=message):
            convert(models("tied"), "onnx", tmp_path / "m.onnx", settings=chosen)
    with pytest.raises(SettingError, match="graph must be fused or portable"):
        Converting(graph="round")
    source = open_folder(models("tied"))
    source.config = LlamaConfig(300_000, 4096, 100, 1, 4, 4, 16, 64)
    with pytest.raises(CheckpointError, match="GB in fp32"):
        registry.load("converters", "onnx").convert(source, tmp_path / "m.onnx", Converting("fp32"), None)
    assert not list(tmp_path.iterdir())


def one_input_more(model):
    model.graph.input.append(onnx.helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, [1, "n"]))


def without_config(model):
    kept = [prop for prop in model.metadata_props if "config.json" not in prop.key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


@pytest.mark.parametrize("change, message", [
    (rename_input("logit_positions", "positions"), "input logit_positions is missing: not a fused graph"),
    (one_input_more, "unexpected input attention_mask"),
    (drop_output, "output present.2.value is missing"),
    (with_config(TIED, num_key_value_heads=3), r"past_key_values.0.key has shape .* config.json wants"),
    (with_config(TIED, vocab_size=301), r"logits has shape .* config.json wants"),
    (with_config(TIED, num_hidden_layers=2), "unexpected input past_key_values.2.key: config.json has 2 layers"),
    (with_config(TIED, num_hidden_layers=4), "input past_key_values.3.key is missing"),
    (without_config, "no config.json"),
])  # fmt: skip
def test_load_fused_graph_that_contradicts_its_metadata_raises(exported, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load(damaged(exported("tied"), tmp_path / "m.onnx", change))
    assert "\n" not in str(caught.value)


def test_load_context_longer_than_the_graph_raises(exported, tmp_path):
    path = damaged(exported("tied"), tmp_path / "m.onnx", with_config(TIED, max_position_embeddings=128))
    runtime = load(path)
    runtime.forward([1] * 64)
    with pytest.raises(RuntimeFailure, match="ONNX Runtime"):
        runtime.forward([1])
    assert runtime.length == 64


def test_load_truncated_file_raises_one_line(exported, tmp_path):
    whole = exported("tied", "int4").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 5000):
        path = tmp_path / f"{size}.onnx"
        path.write_bytes(whole[:size])
        for reader in (load, describe):
            with pytest.raises(CheckpointError) as caught:
                reader(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
