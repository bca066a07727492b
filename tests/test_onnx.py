"""The portable ONNX graph and its runtime, compared with transformers, plain ONNX Runtime, and its quantizer."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from helpers import write_model
from oracles import divergence, hf_logits, hugging_face

from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, ContextError, FileError, RuntimeFailure, SettingError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.settings import Converting, Running
from edgekit.utils import registry

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum")

from onnx_damage import damaged, drop_output, rename_input, with_config  # noqa: E402  (needs onnx)

# Grouped queries, an untied head, a head_dim other than hidden_size / heads, another rotary base.
ODD = LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0)
TIED = dataclasses.replace(ODD, tie_word_embeddings=True)
TOKENS = np.random.default_rng(3).integers(0, 300, 40).tolist()
ONE = Running(threads=1)


def load(path):
    return registry.load("runtimes", "onnx").load(path, ONE)


def describe(path):
    return registry.load("converters", "onnx").describe(path)


def to_onnx(source, out, quant="fp32", verify=True, **more):
    return convert(source, "onnx", out, settings=Converting(quant, graph="portable", **more), verify=verify)[:2]


@pytest.fixture(scope="session")
def models(stories, tmp_path_factory):
    root = tmp_path_factory.mktemp("onnx")
    return {
        "stories": stories,
        "untied": write_model(root / "untied", ODD, std=0.3),
        "tied": write_model(root / "tied", TIED, std=0.3),
        "half": write_model(root / "half", dataclasses.replace(ODD, num_key_value_heads=6), dtype=np.float16, std=0.3),
    }


@pytest.fixture(scope="session")
def exported(models, tmp_path_factory):
    """(model's name, quant) -> path; each is exported once."""
    root, done = tmp_path_factory.mktemp("exports"), {}

    def make(name, quant="fp32"):
        if (name, quant) not in done:
            done[name, quant] = to_onnx(models[name], root / f"{name}-{quant}.onnx", quant)[0]
        return done[name, quant]

    return make


MODELS = ["stories", "untied", "tied", "half"]


# ----------------------------------------------------------------------------- float32


@pytest.mark.parametrize("name", MODELS)
def test_portable_logits_equal_hugging_face(models, exported, name):
    runtime, expected = load(exported(name)), hf_logits(models[name], TOKENS)
    assert np.abs(runtime.forward(TOKENS, every=True) - expected).max() < 1e-4
    for length in (39, 20, 1, 0):  # token by token and in chunks, after a rewind
        runtime.rewind(length)
        again = [runtime.forward(TOKENS[i : i + 7], every=True) for i in range(length, 40, 7)]
        assert np.abs(np.concatenate(again) - expected[length:]).max() < 1e-4
    runtime.rewind(0)
    steps = [runtime.forward([token]) for token in TOKENS]
    assert np.abs(np.stack(steps) - expected).max() < 1e-4


def test_portable_greedy_tokens_equal_generate(models, exported):
    ids = torch.tensor([[1, 403, 407]])
    theirs = hugging_face(models["stories"]).generate(ids, do_sample=False, max_new_tokens=60)[0, 3:].tolist()
    runtime, ours = load(exported("stories")), []
    logits = runtime.forward(ids[0].tolist())
    for _ in theirs:
        ours.append(int(logits.argmax()))
        logits = runtime.forward(ours[-1:])
    assert ours == theirs


def test_portable_graph_has_optimums_interface(models, exported):
    """Two sequences at once, which edgekit never does: the file is an ordinary optimum export."""
    session = ort.InferenceSession(exported("tied"), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 300, (2, 9))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(9)[None].repeat(2, 0)}
    feeds |= {n.name: np.zeros((2, 2, 0, 10), np.float32) for n in session.get_inputs() if n.name.startswith("past")}
    logits, *cache = session.run(None, feeds)
    assert len(cache) == 6 and {c.shape for c in cache} == {(2, 2, 9, 10)}
    for row in range(2):
        assert np.abs(logits[row] - hf_logits(models["tied"], ids[row].tolist())).max() < 1e-4


@pytest.mark.parametrize("quant", ["fp32", "int8"])
def test_portable_graph_has_dynamic_batch_and_lengths_only(exported, quant):
    session = ort.InferenceSession(exported("untied", quant), providers=["CPUExecutionProvider"])
    inputs = {n.name: n.shape for n in session.get_inputs()}
    outputs = {n.name: n.shape for n in session.get_outputs()}
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    assert inputs["past_key_values.2.value"] == ["batch_size", 2, "past_sequence_length", 10]
    assert outputs["logits"] == ["batch_size", "sequence_length", 300]
    assert outputs["present.2.key"] == ["batch_size", 2, "past_sequence_length + sequence_length", 10]
    assert len(inputs) == 3 + 6 and len(outputs) == 1 + 6


@pytest.mark.parametrize("quant", ["fp32", "int8"])
def test_portable_graph_has_standard_operators_only(exported, quant):
    model = onnx.load(exported("tied", quant))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


def test_portable_tied_table_is_stored_once(models, exported):
    for name, count in (("tied", 1), ("untied", 2)):
        tables = [t for t in onnx.load(exported(name)).graph.initializer if np.prod(t.dims) == 300 * 48]
        assert len(tables) == count
    parameters = sum(t.size for _, t in open_folder(models["stories"]))
    carried = sum(path.stat().st_size for path in models["stories"].iterdir() if path.name != "model.safetensors")
    assert exported("stories").stat().st_size < 4 * parameters + 4 / 3 * carried + 150_000


def test_portable_sizes_of_a_12m_model(stentor, tmp_path):
    """12,294,400 parameters: 49.2 MB of float32 and 12.3 MB of int8, and about half a MB for graph and vocabulary."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none may reach the caller
        path, written = to_onnx(stentor, tmp_path / "m.onnx", "int8")
    assert path.stat().st_size < 13.2e6
    assert next(w for w in written if "embed" in w.name).shape == (256, 8064)
    runtime = load(path)
    tokens = np.random.default_rng(0).integers(0, 8000, 64).tolist()
    kl, top1 = divergence(hf_logits(stentor, tokens), runtime.forward(tokens, every=True))
    assert kl < 0.02 and top1 > 0.6  # 0.006 and 0.74 over 1,024 tokens: seeded weights make flat logits


def test_portable_conversion_is_deterministic(models, exported, tmp_path):
    again, _ = to_onnx(models["tied"], tmp_path / "again.onnx", "int8")
    assert again.read_bytes() == exported("tied", "int8").read_bytes()


# ----------------------------------------------------------------------------- int8


# Over 4 x 256 sampled tokens stories260K has KL 0.0065 nats and top-1 0.96; the small seeded ones 0.024 and 0.83.
@pytest.mark.parametrize("name, most_kl, least_top1", [("stories", 0.015, 0.9), ("untied", 0.06, 0.7),
                                                       ("tied", 0.06, 0.7), ("half", 0.06, 0.7)])  # fmt: skip
def test_portable_int8_is_close_to_source(models, exported, name, most_kl, least_top1):
    tokens, runtime = TOKENS, load(exported(name, "int8"))
    if name == "stories":  # text of the model itself, because int8 depends on the activations
        ids = torch.tensor([[1]])
        tokens = hugging_face(models[name]).generate(ids, do_sample=False, max_new_tokens=200)[0].tolist()
    got = runtime.forward(tokens, every=True)
    assert np.isfinite(got).all()
    kl, top1 = divergence(hf_logits(models[name], tokens), got)
    assert 0 < kl < most_kl and top1 > least_top1, (kl, top1)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_portable_int8_weights_equal_onnxruntimes_quantizer(exported, tmp_path, name):
    """Everything equals `quantize_dynamic` on the float32 file, except for the embedding, which edgekit changes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(exported(name), tmp_path / "q.onnx", op_types_to_quantize=["MatMul"], per_channel=True,
                     weight_type=QuantType.QInt8)  # fmt: skip
    theirs = {t.name: t for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    ours = {t.name: t for t in onnx.load(exported(name, "int8")).graph.initializer}
    for key in theirs.keys() - {"model.embed_tokens.weight"}:
        mine, other = onnx.numpy_helper.to_array(ours[key]), onnx.numpy_helper.to_array(theirs[key])
        assert mine.dtype == other.dtype and (mine == other).all(), key
    new = ours.keys() - theirs.keys()
    assert new == {"edgekit_last"} | (
        {"model.embed_tokens.weight_quantized", "model.embed_tokens.weight_scale"} if name == "untied" else set()
    )


def test_portable_int8_embedding_has_a_scale_for_each_token(models, exported):
    for name in ("tied", "untied"):
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(exported(name, "int8")).graph.initializer}
        table, scale = (tensors["model.embed_tokens.weight" + s] for s in ("_quantized", "_scale"))
        rows = table.T if name == "tied" else table
        assert table.dtype == np.int8 and scale.shape == (300,)
        source = open_folder(models[name]).tensors["model.embed_tokens.weight"]
        assert (np.abs(rows * scale[:, None] - source) <= 0.5001 * scale[:, None]).all()
        assert (np.abs(rows).max(axis=1) == 127).all()


def test_portable_int8_quantizes_only_products_with_a_weight(exported):
    _, _, nodes = describe(exported("tied", "int8"))
    # 7 weights in each of 3 layers, and the head. Two products inside each attention stay float32, and one of positions
    # with frequencies.
    assert nodes["MatMulInteger"] == 7 * 3 + 1 and nodes["MatMul"] == 2 * 3 + 1


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_portable_reduce_range_uses_seven_bits(models, tmp_path, name):
    path, _ = to_onnx(models[name], tmp_path / "m.onnx", "int8", reduce_range=True)
    weights = [
        onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name.endswith("_quantized")
    ]
    assert len(weights) == (22 if name == "tied" else 23)
    # 2 x 255 x 64 = 32,640, the largest sum of two products, fits into an int16: 64 is safe, as ONNX Runtime says.
    assert all(np.abs(w.astype(int)).max() == 64 for w in weights)
    kl, top1 = divergence(hf_logits(models[name], TOKENS), load(path).forward(TOKENS, every=True))
    assert 0 < kl < 0.08 and top1 > 0.65


def test_portable_int8_handles_extreme_weights(tmp_path):
    from safetensors.numpy import save_file

    folder = write_model(tmp_path / "m", ODD)
    tensors = open_folder(folder).tensors
    tensors["model.embed_tokens.weight"][5] = 0  # a row of zeros has no scale
    tensors["lm_head.weight"][7] = 0
    tensors["lm_head.weight"][8] = 1e-42
    tensors["lm_head.weight"][9, :2] = 3e38, -3e38
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path, _ = to_onnx(folder, tmp_path / "m.onnx", "int8", verify=False)  # its logits are not meaningful
    for tensor in onnx.load(path).graph.initializer:
        assert not tensor.name.endswith("_scale") or np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
    logits = load(path).forward([5, 7, 5], every=True)
    assert not np.isnan(logits).any() and (logits[:, 7] == 0).all()


# ----------------------------------------------------------------------------- what a file contains


@pytest.mark.parametrize("quant", ["fp32", "int8"])
def test_portable_file_embeds_the_model_files(models, exported, quant):
    runtime = load(exported("stories", quant))
    source = open_folder(models["stories"])
    assert runtime.files == source.files and "tokenizer.json" in runtime.files
    assert (runtime.vocab_size, runtime.context_length) == (512, 512)
    metadata, _, _ = describe(exported("stories", quant))
    assert metadata["edgekit.graph"] == "portable" and metadata["edgekit.quant"] == quant
    assert metadata["edgekit.source.sha256"] == source.sha256
    assert embedded.files_in_texts(metadata, "m") == source.files


def test_describe_portable_names_every_weight(models, exported):
    for quant, kind in (("fp32", "fp32"), ("int8", "int8")):
        _, rows, nodes = describe(exported("untied", quant))
        shapes = ODD.shapes()
        assert [r.name for r in rows] == [*shapes, "(constants of the graph)"]
        for row in rows[:-1]:
            expected = shapes[row.name]
            assert row.shape == (expected if "embed" in row.name else expected[::-1])
            assert row.type == ("fp32" if len(expected) == 1 else kind)
            elements = int(np.prod(expected)) * (4 if row.type == "fp32" else 1)
            assert elements <= row.bytes <= elements + (0 if row.type == "fp32" else 5 * max(expected))
        assert sum(row.bytes for row in rows) < exported("untied", quant).stat().st_size
        assert list(nodes.values()) == sorted(nodes.values(), reverse=True)


def test_convert_portable_returns_what_describe_returns(models, tmp_path):
    path, written = to_onnx(models["tied"], tmp_path / "m.onnx")
    assert written == describe(path)[1]


def test_convert_portable_prints_nothing_and_keeps_logging_unchanged(models, tmp_path, capfd, recwarn):
    import logging

    before = (logging.root.manager.disable, logging.getLogger().handlers[:], logging.getLogger("optimum").level)
    to_onnx(models["tied"], tmp_path / "m.onnx", "int8")
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert (logging.root.manager.disable, logging.getLogger().handlers[:], logging.getLogger("optimum").level) == before


def test_convert_portable_progress_is_complete(models, tmp_path):
    steps = []

    def progress(items, what, total):
        for item in items:
            steps.append((what, total))
            yield item

    convert(
        models["tied"], "onnx", tmp_path / "m.onnx", settings=Converting("fp32", graph="portable"), progress=progress
    )
    assert len(steps) == steps[0][1]


# ----------------------------------------------------------------------------- runtime


def test_portable_forward_returns_an_array_of_the_caller(exported):
    runtime = load(exported("tied"))
    first = runtime.forward([1, 2, 3])
    kept, whole = first.copy(), runtime.forward([4, 5], every=True)
    assert (first == kept).all() and whole.shape == (2, 300) and first.dtype == whole.dtype == np.float32
    assert first.flags.writeable and first.flags.owndata
    first[:] = 0
    runtime.rewind(2)
    assert np.abs(runtime.forward([3]) - kept).max() < 1e-5


def test_portable_forward_past_context_raises(exported):
    runtime = load(exported("tied"))
    runtime.forward([1] * 64)
    with pytest.raises(ContextError, match="65 .* 64"):
        runtime.forward([1])
    for bad in ([], [300], [-1]):
        with pytest.raises(RuntimeFailure):
            runtime.forward(bad)
    with pytest.raises(RuntimeFailure, match="cannot keep 65"):
        runtime.rewind(65)
    assert runtime.length == 64


def test_portable_run_needs_only_onnxruntime(exported):
    script = (
        "import sys; from pathlib import Path; from edgekit.settings import Running\n"
        "from edgekit.utils import registry\n"
        f"path = Path({str(exported('stories', 'int8'))!r})\n"
        "runtime = registry.load('runtimes', 'onnx').load(path, Running(threads=1))\n"
        "runtime.forward([1, 2, 3]); runtime.rewind(2); runtime.forward([3])\n"
        "bad = {m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'onnx', 'optimum', 'google'}\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.filterwarnings("ignore")
def test_plain_optimum_export_runs_with_config_next_to_it(models, tmp_path):
    from optimum.exporters.onnx import onnx_export_from_model

    model = hugging_face(models["untied"])
    onnx_export_from_model(model, tmp_path, task="text-generation-with-past", do_validation=False)
    runtime = load(tmp_path / "model.onnx")
    assert np.abs(runtime.forward(TOKENS, every=True) - hf_logits(models["untied"], TOKENS)).max() < 1e-4
    assert runtime.context_length == 64 and "config.json" in runtime.files
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no config.json"):
        load(tmp_path / "model.onnx")


# ----------------------------------------------------------------------------- invalid input


def test_convert_portable_invalid_settings_raise(models, tmp_path):
    for more, message in (
        ({"quant": "int4"}, "--graph portable: choose from fp32, int8"),
        ({"quant": "fp32", "reduce_range": True}, "reduce_range"),
        ({"quant": "int8", "embedding_type": "q8_0"}, "embedding_type"),
    ):
        with pytest.raises(SettingError, match=message):
            to_onnx(models["tied"], tmp_path / "m.onnx", **more)
    huge = LlamaConfig(300_000, 4096, 100, 1, 4, 4, 8, 64)
    source = open_folder(models["tied"])
    source.config = huge
    settings = Converting("fp32", graph="portable")
    with pytest.raises(CheckpointError, match="GB"):
        registry.load("converters", "onnx").convert(source, tmp_path / "m.onnx", settings, None)
    assert not list(tmp_path.iterdir())


def test_convert_portable_failing_exporter_raises(models, tmp_path, monkeypatch):
    exporter = registry.load("converters", "_optimum")

    def fail(*args, **kwargs):
        raise ValueError("unsupported operator\nand a long story")

    monkeypatch.setattr(exporter, "optimum_export", fail)
    with pytest.raises(RuntimeFailure, match="unsupported operator$"):
        to_onnx(models["tied"], tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_load_damaged_or_foreign_file_raises_one_line(exported, tmp_path):
    whole = exported("tied").read_bytes()
    cases = {"empty": b"", "text": b"hello world" * 50, "cut": whole[: len(whole) // 2], "start": whole[:100],
             "noise": np.random.default_rng(0).bytes(5000)}  # fmt: skip
    for name, data in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        for reader in (load, describe):
            with pytest.raises(CheckpointError) as caught:
                reader(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for reader in (load, describe):
        with pytest.raises(FileError, match="No such file"):
            reader(tmp_path / "missing.onnx")


def flip_a_file(model):
    for prop in model.metadata_props:
        if prop.key == "edgekit.file.config.json":
            prop.value = embedded.to_text(b"{}")


def no_base64(model):
    for prop in model.metadata_props:
        if prop.key == "edgekit.file.config.json":
            prop.value = "?" + prop.value


@pytest.mark.parametrize("change, message", [
    (rename_input("input_ids", "tokens"), "input input_ids is missing"),
    (drop_output, "output present.2.value is missing"),
    (with_config(TIED, num_key_value_heads=3), r"past_key_values.0.key has shape .* config.json wants"),
    (flip_a_file, "does not match its sha256"),
    (no_base64, "not base64"),
])  # fmt: skip
def test_load_graph_that_contradicts_its_metadata_raises(exported, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(damaged(exported("tied"), tmp_path / "m.onnx", change))
