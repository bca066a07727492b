"""Conversions verify themselves: the receipt has what was measured, and a broken artefact is deleted."""

import dataclasses
import json

import numpy as np
import pytest
from handmade import small
from helpers import tokenmonster_files, write_model
from spoilt import unpermuted

from edgekit.conversion import receipt
from edgekit.conversion.convert import convert, summary
from edgekit.conversion.verification.verify import verify
from edgekit.doctor import inspect
from edgekit.errors import CheckpointError, MissingExtraError
from edgekit.formats import embedded
from edgekit.formats import gguf as gguf_file
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.settings import Converting
from edgekit.utils import registry

gguf = pytest.importorskip("gguf")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("llama_cpp")

CONFIG = LlamaConfig(448, 64, 160, 3, 4, 2, 16, 128, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    files = tokenmonster_files(small(1).to_bytes(), CONFIG.vocab_size)
    return write_model(tmp_path_factory.mktemp("receipt") / "tiny", CONFIG, std=0.2, files=files)


KINDS = [("gguf", "f32"), ("gguf", "q8_0"), ("gguf", "q4_0"), ("onnx", "fp32"), ("onnx", "int8"), ("onnx", "int4"),
         ("hf", "f32"), ("hf", "bf16")]  # fmt: skip
NAMES = [" ".join(kind) for kind in KINDS]


def to(tiny, folder, kind, **more):
    name, quant = kind
    return convert(
        tiny, name, folder / f"m{registry.suffix('converters', name)}", settings=Converting(quant=quant), **more
    )


def carried(path):
    """The receipt as other programs read it."""
    if path.is_dir():
        return json.loads((path / "edgekit_receipt.json").read_text())
    if path.suffix == ".gguf":
        return json.loads(gguf.GGUFReader(path).fields["edgekit.receipt"].contents())
    (text,) = [p.value for p in onnx.load(path).metadata_props if p.key == "edgekit.receipt"]
    return json.loads(text)


# ----------------------------------------------------------------------------- a sound one


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_receipt_is_stored_and_has_the_measured_figures(tiny, tmp_path, kind):
    result = to(tiny, tmp_path, kind)
    found = carried(result.path)
    assert found == result.receipt
    assert found["source"] == {"name": "tiny", "sha256": open_folder(tiny).sha256}
    assert (found["to"], found["quant"]) == kind and found["packages"]["numpy"] == np.__version__
    assert found["positions"] == 256 and found["greedy"]["length"] == 24 and len(found["greedy"]["matched"]) == 2
    assert sum(sum(group["types"].values()) for group in found["tensors"].values()) == len(CONFIG.shapes())
    exact = kind[1] in ("f32", "fp32")
    assert (found["figures"]["mean_kl"] == 0) == exact and (found["tensors"]["ffn"]["error"] == 0) == exact
    # The same figures, measured again independently.
    again = verify(tiny, [result.path], tokens=256, greedy=24, prompts=2).artefacts[0]
    assert again.sound and again.figures.mean_kl == pytest.approx(found["figures"]["mean_kl"], rel=0.01, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_convert_twice_gives_the_same_bytes(tiny, tmp_path, kind):
    one, two = to(tiny, tmp_path / "a", kind).path, to(tiny, tmp_path / "b", kind).path
    pairs = [(one, two)] if one.is_file() else [(p, two / p.name) for p in one.iterdir()]
    for a, b in pairs:
        assert a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_convert_without_verify_differs_only_in_the_receipt(tiny, tmp_path, kind):
    proved, bare = to(tiny, tmp_path / "a", kind), to(tiny, tmp_path / "b", kind, verify=False)
    assert bare.receipt is None and proved.tensors == bare.tensors
    assert [note for note in proved.notes if not note.startswith("stock llama.cpp splits")] == bare.notes
    if kind[0] == "hf":
        assert {p.name for p in proved.path.iterdir()} - {p.name for p in bare.path.iterdir()} == {
            "edgekit_receipt.json"
        }
    elif kind[0] == "gguf":
        with_it, without = gguf_file.GGUFFile(proved.path), gguf_file.GGUFFile(bare.path)
        assert list(with_it.metadata) == [*without.metadata, embedded.RECEIPT]
        assert list(with_it.tensors) == list(without.tensors)
        for name, tensor in with_it.tensors.items():
            assert (with_it.data(name) == without.data(name)).all() and tensor.offset % 32 == 0
        assert with_it.files() == without.files()
    else:
        a, b = onnx.load(proved.path), onnx.load(bare.path)
        kept = [p for p in a.metadata_props if p.key != embedded.RECEIPT]
        assert len(kept) == len(a.metadata_props) - 1 == len(b.metadata_props)
        del a.metadata_props[:]
        a.metadata_props.extend(kept)
        assert a == b


def test_receipt_is_shown_by_summary_and_inspect(tiny, tmp_path):
    result = to(tiny, tmp_path, ("gguf", "q8_0"))
    message = summary(result)
    assert "verified on llamacpp, 256 positions of bundled text" in message and "\n  KL 0.0" in message
    found = inspect.describe(result.path)
    assert found["receipt"] == result.receipt and embedded.RECEIPT not in found["metadata"]
    assert "receipt\n  verified on llamacpp" in inspect.report(found)
    folder = to(tiny, tmp_path, ("hf", "f32")).path
    assert inspect.describe(folder)["receipt"]["to"] == "hf" and "\nreceipt\n" in inspect.report(
        inspect.describe(folder)
    )
    assert inspect.describe(tiny)["receipt"] is None and "receipt" not in inspect.report(inspect.describe(tiny))


def test_receipt_is_not_copied_by_the_next_conversion(tiny, tmp_path):
    first = to(tiny, tmp_path / "a", ("gguf", "q8_0"))
    second = convert(first.path, "hf", tmp_path / "b")
    assert second.receipt["source"]["sha256"] != first.receipt["source"]["sha256"]
    third = convert(second.path, "gguf", tmp_path / "c.gguf", settings=Converting(quant="f32"))
    assert third.receipt["figures"]["mean_kl"] == 0 and third.receipt["quant"] == "f32"
    # And a checkpoint's digest does not cover it.
    sha256 = open_folder(second.path).sha256
    (second.path / "edgekit_receipt.json").unlink()
    assert open_folder(second.path).sha256 == sha256


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", "{}", '{"figures": 3}', '{"figures": {"mean_kl": "x"}}', '{"source": []}']
)
def test_summary_lines_of_invalid_receipt_never_raises(text):
    found = receipt.parse(text)
    assert found is None or receipt.summary_lines(found) == ["(it cannot be read)"]


def test_add_receipt_twice_raises(tiny, tmp_path):
    path = to(tiny, tmp_path, ("gguf", "f32")).path
    with pytest.raises(CheckpointError, match="has a receipt already"):
        registry.load("converters", "gguf").add_receipt(path, "{}")


def test_convert_without_tokenizer_is_verified_on_random_ids(tmp_path):
    bare = write_model(tmp_path / "bare", CONFIG, std=0.2)
    found = to(bare, tmp_path, ("gguf", "q8_0")).receipt
    assert "random ids" in found["text"] and "tokenizer" not in found


def test_convert_without_runtime_verifies_tensors_and_adds_a_note(tiny, tmp_path, monkeypatch):
    real = registry.load

    def load(module, name):
        if module == "runtimes":
            raise MissingExtraError(f"llamacpp needs llama_cpp: {registry.install_command('llamacpp')}")
        return real(module, name)

    monkeypatch.setattr(registry, "load", load)
    result = to(tiny, tmp_path, ("gguf", "q8_0"))
    assert result.notes[-1] == (
        "only its tensors were verified: llamacpp needs llama_cpp: pip install 'edgekit-lm[llamacpp]'"
    )
    assert (
        result.receipt["runtime"] is None
        and "figures" not in result.receipt
        and result.receipt["tensors"]["ffn"]["error"] > 0
    )
    assert "error of the tensors" in summary(result) and "verified on" not in summary(result)
    # A format that is not read back has no receipt.
    monkeypatch.delattr(real("converters", "gguf"), "weights")
    result = to(tiny, tmp_path / "b", ("gguf", "q8_0"))
    assert result.receipt is None and result.notes[-1].startswith("not verified: llamacpp needs")
    assert embedded.RECEIPT not in gguf_file.GGUFFile(result.path).metadata


# ----------------------------------------------------------------------------- broken ones


def stale(w):
    w = w.copy()
    w[5:9] *= 1.7
    return w


def with_tensors(checkpoint: Checkpoint, **changes) -> Checkpoint:
    tensors = dict(checkpoint.tensors)
    for part, function in changes.items():
        name = f"model.layers.1.{part}_proj.weight"
        tensors[name] = np.ascontiguousarray(function(checkpoint.float32(name)))
    return dataclasses.replace(checkpoint, tensors=tensors)


def swapped(checkpoint: Checkpoint) -> Checkpoint:
    names = [f"model.layers.1.mlp.{kind}_proj.weight" for kind in ("gate", "up")]
    return dataclasses.replace(
        checkpoint,
        tensors=checkpoint.tensors | dict(zip(names, [checkpoint.tensors[n] for n in names[::-1]], strict=True)),
    )


def another_base(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, rope_theta=500000.0))


def truncated(checkpoint: Checkpoint) -> Checkpoint:
    name = "model.embed_tokens.weight"
    return dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(checkpoint.config, vocab_size=CONFIG.vocab_size - 16),
        tensors=checkpoint.tensors | {name: np.ascontiguousarray(checkpoint.tensors[name][:-16])},
    )


# Faults of a converter, and the message for each.
FAULTS = {
    "unpermuted": (lambda c: with_tensors(c, **{"self_attn.q": unpermuted}), "layer 1 attention differs: query rows"),
    "transposed": (lambda c: with_tensors(c, **{"self_attn.o": np.transpose}), "the output matrix is transposed"),
    "swapped": (swapped, "layer 1 ffn differs: gate and up are swapped"),
    "stale": (lambda c: with_tensors(c, **{"mlp.up": stale}), "the up matrix has the wrong scale in 4 of 160 rows"),
    "base": (another_base, "500000"),
    "truncated": (truncated, "432"),
}


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@pytest.mark.parametrize("fault", FAULTS)
def test_convert_broken_artefact_is_explained_and_deleted(tiny, tmp_path, monkeypatch, fault, kind):
    change, message = FAULTS[fault]
    module = registry.load("converters", kind[0])
    real = module.convert
    monkeypatch.setattr(module, "convert", lambda checkpoint, *more: real(change(checkpoint), *more))
    out = tmp_path / "out"
    with pytest.raises(CheckpointError) as caught:
        to(tiny, out, kind)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("m") and ".tmp" not in str(caught.value) and "--no-verify" in str(caught.value)
    assert list(out.iterdir()) == []
    result = to(tiny, out, kind, verify=False)
    assert result.path.exists(), "--no-verify keeps it"


def test_convert_broken_artefact_keeps_the_old_file(tiny, tmp_path, monkeypatch):
    before = to(tiny, tmp_path, ("gguf", "f32")).path.read_bytes()
    monkeypatch.setattr(registry.load("converters", "gguf"), "permute", lambda name, values, config: values)
    with pytest.raises(CheckpointError, match="layer 0 attention differs: query rows are not permuted .5 more"):
        to(tiny, tmp_path, ("gguf", "f32"), force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"] and (tmp_path / "m.gguf").read_bytes() == before


def test_convert_missing_permutation_in_writer_and_reader_is_found(tiny, tmp_path, monkeypatch):
    """The reader undoes what the writer did not do: the tensors look right, the logits are wrong."""
    from edgekit.converters import _gguf_read

    for module, name in ((registry.load("converters", "gguf"), "permute"), (_gguf_read, "unpermute")):
        monkeypatch.setattr(module, name, lambda name, values, config: values)
    with pytest.raises(CheckpointError, match="query and key rows are not permuted for its rotary embedding"):
        to(tiny, tmp_path, ("gguf", "q4_0"))


def test_convert_wrong_rotary_base_in_keys_is_found(tiny, tmp_path, monkeypatch):
    from edgekit.converters import _gguf_keys

    real = _gguf_keys.llama_keys
    monkeypatch.setattr(_gguf_keys, "llama_keys", lambda config: real(config) | {"llama.rope.freq_base": 500000.0})
    with pytest.raises(CheckpointError, match="rope_theta is 500000 in it, 10000 in the source"):
        to(tiny, tmp_path, ("gguf", "q8_0"))


def test_convert_scales_of_another_tensor_are_found(tiny, tmp_path, monkeypatch):
    module = registry.load("converters", "gguf")
    real, before = module.encode, []

    def encode(values, kind, name):
        raw = real(values, kind, name)
        if kind == "Q8_0" and name.endswith("2.mlp.gate_proj.weight"):
            raw = raw.copy()
            raw.reshape(-1, 34)[:, :2] = before[0][: raw.size // 34]
        if kind == "Q8_0" and name.startswith("model.embed_tokens"):
            before.append(2 * raw.reshape(-1, 34)[:, :2] // 2)
            before[0] = np.roll(before[0], 7, axis=0)
        return raw

    monkeypatch.setattr(module, "encode", encode)
    with pytest.raises(
        CheckpointError, match="layer 2 ffn differs: the gate matrix has the wrong scale in .* blocks of 32"
    ):
        to(tiny, tmp_path, ("gguf", "q8_0"))


@pytest.mark.parametrize("graph", ["fused", "portable"])
def test_convert_wrong_rotary_base_in_graph_is_found(tiny, tmp_path, monkeypatch, graph):
    """Neither tensors nor keys show it, only the logits, and the source with that fault has the same logits."""
    if graph == "portable":
        pytest.importorskip("optimum")
        exporter, name = registry.load("converters", "_optimum"), "build"
        real = exporter.build
        monkeypatch.setattr(exporter, name, lambda checkpoint: real(another_base(checkpoint)))
    else:
        from edgekit.converters import _onnx_fused

        real = _onnx_fused._Graph.rotation

        def rotation(self):
            right, self.checkpoint = self.checkpoint, another_base(self.checkpoint)
            real(self)
            parts, self.checkpoint = self.parts[-1], right
            return parts

        monkeypatch.setattr(_onnx_fused._Graph, "rotation", rotation)
    settings = Converting(quant="fp32", graph=graph)
    with pytest.raises(CheckpointError, match="its rotary base is 500000, the source's 10000"):
        convert(tiny, "onnx", tmp_path / "m.onnx", settings=settings)


def test_weights_of_portable_graph_are_all_read(tiny, tmp_path):
    pytest.importorskip("optimum")
    for quant in ("fp32", "int8"):
        result = convert(tiny, "onnx", tmp_path / f"{quant}.onnx", settings=Converting(quant=quant, graph="portable"))
        assert sum(sum(g["types"].values()) for g in result.receipt["tensors"].values()) == len(CONFIG.shapes())
        assert result.receipt["graph"] == "portable"


def test_weights_of_padded_heads_are_all_read(tmp_path):
    """head_dim 10: the fused graph pads it to 16."""
    odd = LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0)
    folder = write_model(tmp_path / "odd", odd, std=0.2)
    for quant in ("fp32", "fp16", "int8", "int4"):
        result = convert(folder, "onnx", tmp_path / f"{quant}.onnx", settings=Converting(quant=quant))
        assert sum(sum(g["types"].values()) for g in result.receipt["tensors"].values()) == len(odd.shapes())
