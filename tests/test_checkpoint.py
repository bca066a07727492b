"""Checkpoints: what is read is right, and what is wrong is named."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig, open_folder, side_files, unknown_keys

SMALL = LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, max_position_embeddings=32, tie_word_embeddings=True, eos_token_id=(1,),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "small", SMALL)


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "DELETE"}))


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def test_open_folder_reads_tensors_and_files(folder):
    checkpoint = open_folder(folder)
    assert checkpoint.name == "small" and checkpoint.config == SMALL
    assert set(checkpoint.tensors) == set(SMALL.shapes())
    expected = load_file(folder / "model.safetensors")
    for name, tensor in checkpoint:
        assert (tensor == expected[name]).all() and checkpoint.dtypes[name] == "F32"


def test_shapes_stentor2_has_12294400_parameters(stentor):
    shapes = open_folder(stentor).config.shapes()
    assert sum(int(np.prod(s)) for s in shapes.values()) == 12_294_400


def test_open_folder_stories260k(stories):
    checkpoint = open_folder(stories)
    assert sum(t.size for _, t in checkpoint) == 260_032
    assert checkpoint.config.num_key_value_heads == 4 and checkpoint.config.num_attention_heads == 8


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_open_folder_types_widen_as_in_torch(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    folder = write_model(tmp_path / "m", SMALL)
    tensors = {n: torch.tensor(t).to(getattr(torch, kind)) for n, t in load_file(folder / "model.safetensors").items()}
    save_torch(tensors, folder / "model.safetensors")
    checkpoint = open_folder(folder)
    for name, tensor in tensors.items():
        assert (checkpoint.float32(name) == tensor.float().numpy()).all()
        assert checkpoint.dtypes[name] == {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[kind]


def test_open_folder_shards_are_joined(folder):
    whole = open_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        save_file({n: tensors[n] for n in chosen}, folder / f"part-{part}.safetensors")
        weight_map |= dict.fromkeys(chosen, f"part-{part}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert open_folder(folder).sha256 == whole.sha256
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="names 'part-1.safetensors', which is not in the folder"):
        open_folder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(CheckpointError, match="not in the folder"):
        open_folder(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_open_folder_wrapper_prefixes_are_removed(folder, prefix):
    before = open_folder(folder).sha256
    edit_tensors(folder, lambda t: {prefix + n: v for n, v in t.items()})
    assert open_folder(folder).sha256 == before


def test_open_folder_redundant_tensors_are_dropped(folder):
    before = open_folder(folder).sha256
    edit_tensors(
        folder,
        lambda t: (
            t
            | {
                "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
                "lm_head.weight": t["model.embed_tokens.weight"].copy(),
            }
        ),
    )
    assert open_folder(folder).sha256 == before


def without(tensors, name):
    return {n: t for n, t in tensors.items() if n != name}


DAMAGE = [
    (lambda t: without(t, "model.norm.weight"), "tensor model.norm.weight is missing"),
    (lambda t: t | {"model.extra": np.ones(1, np.float32)}, "unexpected tensor model.extra"),
    (lambda t: t | {"model.layers.2.input_layernorm.weight": np.ones(16, np.float32)}, "unexpected .*layers.2"),
    (lambda t: t | {"model.norm.weight": np.ones(15, np.float32)}, r"model.norm.weight has shape \[15\].*\[16\]"),
    (
        lambda t: t | {"model.embed_tokens.weight": np.ones((41, 16), np.float32)},
        r"embed_tokens.* \[41, 16\].* \[40, 16\]",
    ),
    (lambda t: t | {"lm_head.weight": np.ones((40, 16), np.float32)}, "lm_head.weight differs"),
    (lambda t: t | {"model.norm.weight": np.ones(16, np.int32)}, "model.norm.weight is I32"),
    (
        lambda t: t | {"model.norm.weight": np.array([np.nan] + [1] * 15, np.float32)},
        "model.norm.weight has 1 values that are NaN",
    ),
]


@pytest.mark.parametrize("change, message", DAMAGE, ids=[d[1][:24] for d in DAMAGE])
def test_open_folder_damaged_tensor_is_named(folder, change, message):
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        open_folder(folder)


REFUSED = [
    ({"model_type": "mixtral"}, "model_type is 'mixtral'"),
    ({"model_type": "mistral", "max_position_embeddings": 8192}, "sliding_window is 4096"),
    ({"model_type": "mistral", "sliding_window": 16}, "sliding_window is 16"),
    ({"attention_bias": True}, "self_attn.q_proj.bias is missing"),
    ({"mlp_bias": True}, "gate_proj.bias is missing"),
    ({"mlp_bias": "yes"}, "mlp_bias must be true or false"),
    ({"rope_interleaved": True}, "rope_interleaved is True"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"num_experts": 8}, "num_experts is 8"),
    ({"layer_sharing": True}, "layer_sharing is True"),
    ({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, "rope_theta is 10000.0, but"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}, "contradict"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be a number above 0"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters"),
    ({"num_key_value_heads": 3}, "does not divide by num_key_value_heads 3"),
    ({"num_hidden_layers": "two"}, "num_hidden_layers must be a whole number"),
    ({"rms_norm_eps": -1}, "rms_norm_eps"),
    ({"hidden_size": "DELETE"}, "hidden_size is missing"),
    ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number above 0"),
    ({"eos_token_id": "one"}, "eos_token_id"),
    ({"pad_token_id": 40}, "pad_token_id 40 is outside the vocabulary of 40"),
    ({"eos_token_id": [1, 99]}, "eos_token_id 99 is outside"),
    ({"head_dim": 5}, "head_dim 5 is odd"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
]


@pytest.mark.parametrize("changes, message", REFUSED, ids=[next(iter(c[0])) for c in REFUSED])
def test_open_folder_unsupported_key_is_named(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_folder(folder)


OFF = [
    {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}},
    {"neftune_noise_alpha": 5, "_attn_implementation": "sdpa", "layer_types": ["full_attention"] * 2},
    {"rope_scaling": {"type": "linear", "factor": 1.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 1.0, "original_max_position_embeddings": 64}},
    {"rope_scaling": {"type": "default"}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": SMALL.rope_theta, "partial_rotary_factor": 1.0}},
    {"hidden_act": "swish", "partial_rotary_factor": 1.0, "sliding_window": None, "use_sliding_window": False},
    {"sliding_window": SMALL.max_position_embeddings},
    {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None},
    {"model_type": "mobilellm", "share_embedding": True, "layer_sharing": False},
]


@pytest.mark.parametrize("changes", OFF, ids=[",".join(c)[:40] for c in OFF])
def test_open_folder_keys_that_change_nothing_give_the_same_model(folder, changes):
    edit_config(folder, **changes)
    checkpoint = open_folder(folder)
    assert checkpoint.config == SMALL and unknown_keys(json.loads(checkpoint.files["config.json"])) == []


def test_open_folder_unknown_key_is_ignored_and_listed(folder):
    edit_config(folder, some_new_feature=3)
    checkpoint = open_folder(folder)
    assert checkpoint.config == SMALL
    assert unknown_keys(json.loads(checkpoint.files["config.json"])) == ["some_new_feature"]


def test_open_folder_mobilellm_shares_its_embedding(folder):
    edit_config(folder, model_type="mobilellm", tie_word_embeddings=False, share_embedding=True)
    assert open_folder(folder).config == SMALL


def test_open_folder_names_without_prefix_are_the_same_model(folder):
    before = open_folder(folder).sha256
    edit_tensors(folder, lambda t: {n.removeprefix("model."): v for n, v in t.items()})
    assert open_folder(folder).sha256 == before


def test_open_folder_tied_table_saved_as_head_only(folder):
    before = open_folder(folder).sha256
    edit_tensors(folder, lambda t: {n.replace("model.embed_tokens", "lm_head"): v for n, v in t.items()})
    assert open_folder(folder).sha256 == before


def test_config_rope_parameters_of_transformers_5(folder):
    edit_config(folder, rope_scaling="DELETE", rope_theta="DELETE",
                rope_parameters={"rope_type": "default", "rope_theta": 5e5})  # fmt: skip
    assert open_folder(folder).config.rope_theta == 5e5


def test_to_dict_round_trips_and_transformers_reads_it():
    assert LlamaConfig.from_dict(SMALL.to_dict()) == SMALL
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaConfig.from_dict(SMALL.to_dict())
    for name in ("hidden_size", "head_dim", "num_key_value_heads", "tie_word_embeddings", "eos_token_id"):
        expected = getattr(SMALL, name)
        assert getattr(theirs, name) == (expected[0] if name == "eos_token_id" else expected)


def test_open_folder_saved_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                      num_attention_heads=2)  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    assert open_folder(tmp_path / "m").config.num_key_value_heads == 2


MANY = 2**31 - 1


@pytest.mark.parametrize("key, message", [
    ("num_hidden_layers", f"num_hidden_layers is {MANY}, but the folder holds 20 tensors"),
    ("vocab_size", f"vocab_size is {MANY}, but the folder's tensors hold 40 rows at most"),
])  # fmt: skip
def test_open_folder_impossible_counts_raise_before_allocating(folder, tmp_path, key, message):
    """In a separate process limited to a gigabyte: allocating what is claimed would take a hundred."""
    edit_config(folder, **{key: MANY})
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "from pathlib import Path\n"
        "from edgekit.formats.checkpoint import open_folder, side_files\n"
        "from edgekit.conversion.convert import convert\n"
        "from edgekit.tokenizers.open import open_tokenizer\n"
        "from edgekit.errors import CheckpointError\n"
        "folder, out = map(Path, sys.argv[1:])\n"
        "for call in (lambda: open_folder(folder), lambda: side_files(folder),\n"
        "             lambda: open_tokenizer(str(folder), None), lambda: convert(folder, 'hf', out)):\n"
        "    try:\n"
        "        call()\n"
        "    except CheckpointError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(message) == 4 == len(done.stdout.splitlines())


def test_counts_checked_against_shards_and_tensors(folder):
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    for i in range(2):
        save_file({n: whole[n] for n in names[i::2]}, folder / f"part-{i}.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {n: f"part-{i % 2}.safetensors" for i, n in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_folder(folder)
    edit_config(folder, num_hidden_layers=21)
    with pytest.raises(CheckpointError, match="num_hidden_layers is 21, but the folder holds 20 tensors"):
        open_folder(folder)
    many = dataclasses.replace(checkpoint.config, num_hidden_layers=MANY)
    with pytest.raises(CheckpointError, match="but there are 20 tensors"):
        dataclasses.replace(checkpoint, config=many)


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size"])
def test_config_without_weights_has_limits(key):
    """Such as one embedded in an artefact: lists are built from it."""
    with pytest.raises(CheckpointError, match=f"{key} is {MANY}, and edgekit accepts [0-9]+ at most"):
        LlamaConfig.from_dict(SMALL.to_dict() | {key: MANY})


def test_side_files_without_weights_limits_vocabulary(folder):
    (folder / "model.safetensors").unlink()
    edit_config(folder, vocab_size=128_256)
    assert "config.json" in side_files(folder)
    edit_config(folder, vocab_size=MANY)
    with pytest.raises(CheckpointError, match="vocab_size is 2147483647, but without weights at most 4194304"):
        side_files(folder)


def test_open_folder_not_a_model_raises(tmp_path, folder):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_folder(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_folder(folder / "config.json")
    with pytest.raises(CheckpointError, match="no config.json"):
        open_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights only"):
        open_folder(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        open_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        open_folder(folder)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_open_folder_any_damage_is_one_clear_error(tmp_path, data):
    """Cut anywhere or with any bytes changed: either other floats or `CheckpointError`, and no other exception."""
    path = tmp_path / "m"
    whole = (path if path.exists() else write_model(path, SMALL)) / "model.safetensors"
    if not (path / "whole").exists():
        (path / "whole").write_bytes(whole.read_bytes())
    raw = bytearray((path / "whole").read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, min(len(raw) - 1, 2500)))] = data.draw(st.integers(0, 255))
    whole.write_bytes(raw)
    try:
        assert open_folder(path).config == SMALL
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_side_files_vocabulary_of_any_name_is_renamed(stentor, tmp_path):
    from edgekit.tokenizers.load import from_files

    folder = write_model(tmp_path / "m", SMALL)
    config = json.loads((stentor / "tokenizer_config.json").read_text()) | {"vocab_file": "english.vocab"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "english.vocab").write_bytes((stentor / "tokenmonster.vocab").read_bytes())
    files = open_folder(folder).files
    assert from_files(files, 8064).encode("Hello, World!") == [98, 1637, 593, 15, 3346, 4]
