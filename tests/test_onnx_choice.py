"""int4 in ONNX: matrices at 8 bits and the length of blocks are chosen by measured loss, and stated."""

import dataclasses

import numpy as np
import pytest
from handmade import small
from helpers import tokenmonster_files, write_model
from threadpoolctl import threadpool_limits

from edgekit.conversion.convert import convert, summary
from edgekit.conversion.rounding import Losses, tokens
from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.inference.reference import Reference
from edgekit.settings import Converting
from edgekit.utils import registry

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgekit.converters import _onnx_choice as choice  # noqa: E402  (needs onnx)
from edgekit.converters._onnx_types import KINDS, Matrix, first_layers, stored, tensors_of  # noqa: E402

# Rows of 128 and 256, so that a block of 128 is four of 32.
CONFIG = LlamaConfig(448, 128, 256, 5, 4, 2, 32, 256, tie_word_embeddings=True)


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1, "blas"):
        yield


def plain_files():
    return tokenmonster_files(small(1).to_bytes(), CONFIG.vocab_size)


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("choice") / "plain", CONFIG, std=0.08, files=plain_files())
    return open_folder(folder)


def changed(checkpoint, change):
    """The checkpoint with `change(matrix, values)` in place of each matrix of a layer."""
    tensors = dict(checkpoint.tensors)
    for matrix, names in tensors_of(checkpoint.config).items():
        tensors |= {name: change(matrix, checkpoint.float32(name)) for name in names}
    return dataclasses.replace(checkpoint, tensors=tensors, notes=[])


def peaked(values, every):
    """The first of every `every` columns is 30 times as large: in its block, 4 bits round the others to nothing."""
    values = values.copy()
    values[:, ::every] *= 30
    return values


def by_hand(checkpoint, rounded, ids):
    """Mean KL of a checkpoint and the same with other tensors, in float64."""
    other = dataclasses.replace(checkpoint, tensors=checkpoint.tensors | rounded)
    p, q = (Reference(c).forward(ids, every=True).astype(np.float64) for c in (checkpoint, other))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def artefact_bytes(config, types):
    eight = {kind: sum(matrix.kind == kind for matrix in types.eight) for kind in KINDS}
    return sum(
        eight[kind] * stored(config, kind, 8, 128)
        + (config.num_hidden_layers - eight[kind]) * stored(config, kind, 4, types.block)
        for kind in KINDS
    )


def test_losses_of_one_matrix_and_of_several_equal_whole_runs(plain):
    losses = Losses(plain)
    ids = losses._ids
    assert losses.positions == len(ids) == 256 == tokens(plain)
    for layer, half, part in ((0, "attention", "self_attn.v"), (3, "ffn", "mlp.down"), (4, "attention", "self_attn.o")):
        name = f"model.layers.{layer}.{part}_proj.weight"
        rounded = {name: np.round(plain.float32(name), 1)}
        assert losses.of(layer, half, rounded) == pytest.approx(by_hand(plain, rounded, ids), rel=1e-3)
        assert losses.whole(rounded) == pytest.approx(by_hand(plain, rounded, ids), rel=1e-3)
    assert losses.whole({}) < 1e-9, "the source's tensors are back in their places"


def test_tokens_are_fewer_for_large_models(plain):
    config = dataclasses.replace(CONFIG, vocab_size=49152, num_hidden_layers=30)

    class Large:
        def __iter__(self):
            return iter([("model.layers.0.x", np.broadcast_to(np.float32(0), (106_000, 1000)))])

    large = Large()
    large.config = dataclasses.replace(config, hidden_size=576)
    assert tokens(large) == 32 < tokens(plain)


def test_choose_keeps_what_loses_most_at_8_bits(plain):
    """In one late matrix the columns differ so much that its 4 bits are worth nothing; the rule of the first layers
    does not protect it."""
    worst = Matrix(3, "down")
    model = changed(plain, lambda matrix, values: peaked(values, 32) if matrix == worst else values)
    found = choice.choose(model)
    assert worst in found.types.eight and worst not in first_layers(CONFIG).eight
    name = "blocks of 128"
    assert found.types.block == 128 and found.kl[name] < 0.7 * found.kl["the first layers"]


def test_choose_takes_short_blocks_only_where_they_are_clearly_better(plain, tmp_path):
    assert choice.choose(plain).types.block == 128
    deep = dataclasses.replace(CONFIG, num_hidden_layers=12)
    folder = write_model(tmp_path / "deep", deep, std=0.05, files=plain_files())
    # Of each 128 columns 32 are large, and what they are multiplied with is small: all count the same, but a block of
    # 128 has one scale for them.
    large = np.where(np.arange(128) < 32, 30, 1).astype(np.float32)
    model = changed(
        open_folder(folder), lambda matrix, values: values * large if matrix.kind in ("qkv", "gate_up") else values
    )
    for name in model.tensors:
        if name.endswith("layernorm.weight"):
            model.tensors[name] = model.tensors[name] / large
    found = choice.choose(model)
    assert found.types.block == 32 and found.kl["blocks of 32"] < 0.8 * found.kl["blocks of 128"]
    assert artefact_bytes(deep, found.types) <= choice.budget(deep)


def test_choose_stays_within_the_budget_and_stops_early(plain):
    for model in (plain, changed(plain, lambda matrix, values: peaked(values, 16))):
        types = choice.choose(model).types
        assert artefact_bytes(CONFIG, types) <= choice.budget(CONFIG)
    # Weights of powers of two times one scale: nothing is lost at 4 bits, so nothing gets 8.
    exact = changed(plain, lambda matrix, values: (0.05 * np.sign(values)).astype(np.float32))
    assert choice.choose(exact).types.eight == frozenset()


def test_choose_twice_gives_the_same_and_measures_once(plain, monkeypatch):
    first = choice.choose(plain)
    monkeypatch.setattr(choice, "_choices", {})
    assert choice.choose(plain) == first
    monkeypatch.setattr(choice, "Losses", None)
    assert choice.choose(plain) == first


def test_choose_without_a_measurement_takes_the_rule(plain, monkeypatch):
    def fails(checkpoint):
        raise CheckpointError("the source's own logits are not finite")

    monkeypatch.setattr(choice, "Losses", fails)
    monkeypatch.setattr(choice, "_choices", {})
    found = choice.choose(plain)
    assert found.types == first_layers(CONFIG) and found.kl == {} and "not finite" in found.sentence(5)


def test_convert_int4_states_the_choice_and_has_the_measured_loss(plain, tmp_path):
    model = changed(plain, lambda matrix, values: peaked(values, 32) if matrix == Matrix(4, "down") else values)
    module = registry.load("converters", "onnx")
    folder = convert_folder(model, tmp_path / "m")
    result = convert(folder, "onnx", tmp_path / "m.onnx", settings=Converting(quant="int4"))
    stated = result.receipt["chosen"]
    found = choice.choose(open_folder(folder))
    assert stated == found.record() and 4 in stated["8 bits"]["down"] and stated["block"] == found.types.block
    note = found.sentence(5)
    assert note in result.notes and note in summary(result) and note.startswith("int4: blocks of ")
    # What the choice measured is what the file's own tensors lose.
    rounded = {tensor.name: tensor.values for tensor in module.weights(result.path)}
    kl = by_hand(open_folder(folder), rounded, Losses(open_folder(folder))._ids)
    assert min(found.kl.values()) == pytest.approx(kl, rel=1e-3)
    assert "chosen" not in convert(folder, "onnx", tmp_path / "8.onnx", settings=Converting(quant="int8")).receipt


def convert_folder(checkpoint, path):
    """Write a checkpoint that was changed in memory."""
    from safetensors.numpy import save_file

    path.mkdir()
    save_file(dict(checkpoint.tensors), path / "model.safetensors", {"format": "pt"})
    for name, data in checkpoint.files.items():
        (path / name).write_bytes(data)
    return path
