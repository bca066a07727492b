"""Runs that start with the weights of a finished model, and dropout."""

# ruff: noqa: E402  (a missing package skips the file before its imports fail)

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("numba")

from handmade import build
from safetensors.torch import load_file

from edgekit.errors import CheckpointError, RecipeError
from edgekit.formats.checkpoint import open_folder
from edgekit.tokenizers.load import from_files
from edgekit.training import data, loop, recipe, setup
from edgekit.training.model import Llama

pytestmark = pytest.mark.usefixtures("one_thread")

EMBEDDING = "model.embed_tokens.weight"


def make(folder, *, vocabulary="bytes", weights=None, steps=2, **training):
    """A recipe of one layer on a page of text."""
    folder.mkdir(exist_ok=True)
    text = folder / "page.txt"
    text.write_text("the old cat and the old dog sat in the sun. " * 200)
    model = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
             "max_position_embeddings": 32}  # fmt: skip
    return recipe.from_dict({
        "model": model | ({"weights": str(weights)} if weights else {}),
        "tokenizer": {"vocabulary": str(vocabulary)},
        "data": {"block_size": 16, "sources": [{"path": str(text)}], "cache": str(folder / "cache"), "add_bos": True},
        "training": {"max_train_steps": steps, "per_device_train_batch_size": 4} | training,
        "precision": {"fp32_layers": 0, "mixed_precision": "no"},
        "schedule": {"warmup_steps": 1}, "saving": {"output": str(folder / "run"), "logging_steps": 1},
    })  # fmt: skip


@pytest.fixture
def first(tmp_path):
    """The folder of a trained model with a vocabulary of 256 bytes."""
    loop.train(make(tmp_path / "first", steps=6))
    return tmp_path / "first" / "run" / "model"


def initial_weights(folder, **how):
    """The weights of a run before its first step."""
    run = setup.build(make(folder, **how))
    assert not setup.resume(run)
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def test_load_same_vocabulary_copies_weights(first, tmp_path):
    weights, initial = load_file(first / "model.safetensors"), initial_weights(tmp_path / "second", weights=first)
    drawn = initial_weights(tmp_path / "third")
    for name, tensor in weights.items():
        if name == EMBEDDING:
            assert torch.equal(initial[name][:258], tensor[:258])  # 256 bytes, EOS and BOS
            assert torch.equal(initial[name][258:], drawn[name][258:])  # padding
        else:
            assert torch.equal(initial[name], tensor)
    assert not torch.equal(initial[EMBEDDING][:258], drawn[EMBEDDING][:258])


def test_load_other_vocabulary_averages_old_rows(first, tmp_path, caplog):
    caplog.set_level("INFO", "edgekit.training")
    path = tmp_path / "more.vocab"
    made = build([b"the old", b"sat"], 0)
    made.save(path)
    initial, old = (
        initial_weights(tmp_path / "second", vocabulary=path, weights=first),
        load_file(first / "model.safetensors"),
    )
    vocabulary = data.vocabulary(str(path))
    ids = {vocabulary.base_bytes(id): id for id in range(vocabulary.table_size)}
    for token in (b"the old", b"sat", b"t", b" ", b"\xff"):
        torch.testing.assert_close(initial[EMBEDDING][ids[token]], old[EMBEDDING][list(token)].mean(0))
    eos = vocabulary.table_size
    assert torch.equal(initial[EMBEDDING][eos : eos + 2], old[EMBEDDING][256:258])
    assert "of 258 tokens 256 are in its vocabulary, 2 are means of several of its tokens" in caplog.text


def test_origins_tokenizer_json_model_finds_rows_by_text(tmp_path, stories):
    """A BPE tokenizer: rows by the text of each token."""
    from edgekit.training import hf_folder, warm_start

    old = open_folder(stories)
    tokens = from_files(old.files, old.config.vocab_size)
    vocabulary = build([b" once upon", b"ing"], 0)
    r = make(tmp_path / "a")
    rows, known = warm_start.origins(old, hf_folder.config_for(r, vocabulary), vocabulary)
    ids = {vocabulary.base_bytes(id): id for id in range(vocabulary.table_size)}
    assert rows[ids[b" once upon"]].tolist() == tokens.encode(" once upon")
    assert not len(rows[ids[b"\xff"]]) and known >= 26
    assert rows[vocabulary.table_size].tolist() == [min(tokens.stop)]


def test_train_resumed_keeps_its_own_weights(first, tmp_path):
    whole = make(tmp_path / "whole", weights=first, steps=4, dropout=0.2)
    loop.train(whole)
    parts = make(tmp_path / "parts", weights=first, steps=4, dropout=0.2)
    loop.train(parts, stop_at=2)
    loop.train(parts)
    one, two = (load_file(tmp_path / name / "run" / "model" / "model.safetensors") for name in ("whole", "parts"))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    card = (tmp_path / "whole" / "run" / "model" / "README.md").read_text()
    assert "| weights at the start | those of " in card and "| dropout | 0.2 |" in card


@pytest.mark.parametrize("key, value", [("hidden_size", 32), ("num_attention_heads", 1), ("rope_theta", 500.0)])
def test_load_other_shape_raises(first, tmp_path, key, value):
    config = json.loads((first / "config.json").read_text())
    r = make(tmp_path / "second", weights=first)
    r = recipe.from_dict(r.to_dict() | {"model": r.to_dict()["model"] | {key: value}})
    with pytest.raises(
        RecipeError, match=rf"model.weights: .* has {key} {config.get(key)}.*, the recipe's model {value}"
    ):
        loop.train(r)


def test_load_missing_model_raises(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        loop.train(make(tmp_path / "second", weights=tmp_path / "nowhere"))


# ---- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_in_training_only_and_keeps_the_mean(first):
    config = open_folder(first).config
    torch.manual_seed(0)
    plain, dropping = Llama(config), Llama(config, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 16)))
    assert torch.equal(dropping.eval().logits(ids), plain.logits(ids))
    dropping.train()
    one, two = dropping.hidden(ids), dropping.hidden(ids)
    assert not torch.equal(one, two)
    layer, x = dropping.model.layers[0], torch.ones(100, 100)
    dropped = layer.drop(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and dropped.mean() == pytest.approx(1, abs=0.05)


def test_dropout_of_one_raises(tmp_path):
    with pytest.raises(RecipeError, match="dropout must be a number of at least 0 and below 1"):
        make(tmp_path / "a", dropout=1.0)
