"""The converter to a Hugging Face folder, which transformers and edgekit read."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import write_model
from safetensors.numpy import save_file

from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, FileError, SettingError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.settings import Converting
from edgekit.utils import registry

ODD = LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0)
TOKENS = np.random.default_rng(3).integers(0, 300, 40).tolist()


def logits(folder, tokens=TOKENS, dtype="float32"):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float().numpy(), model


def to_hf(source, out, quant=None):
    return convert(source, "hf", out, settings=Converting(quant))[:2]


@pytest.mark.parametrize("tied", [False, True])
def test_convert_f32_equals_source_in_transformers(tmp_path, tied):
    source = write_model(tmp_path / "m", dataclasses.replace(ODD, tie_word_embeddings=tied), std=0.3)
    out, written = to_hf(source, tmp_path / "back", "f32")
    assert (logits(out)[0] == logits(source)[0]).all()
    assert len(written) == len(open_folder(source).tensors) and {w.type for w in written} == {"F32"}
    assert sum(w.bytes for w in written) < (out / "model.safetensors").stat().st_size


def test_convert_trained_model_has_the_same_tokenizer(tmp_path, stories):
    transformers = pytest.importorskip("transformers")
    out, _ = to_hf(stories, tmp_path / "back")
    assert (logits(out)[0] == logits(stories)[0]).all()
    carried = [path.name for path in stories.iterdir() if path.name not in ("model.safetensors", "config.json")]
    assert all((out / name).read_bytes() == (stories / name).read_bytes() for name in carried)
    assert json.loads((out / "config.json").read_text()) == json.loads((stories / "config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("Once upon a time").input_ids, skip_special_tokens=True) == "Once upon a time"


@pytest.mark.parametrize("quant, numpy_type", [("f16", "float16"), ("bf16", "bfloat16")])
def test_convert_16_bit_types_equal_torchs_rounding(tmp_path, quant, numpy_type):
    torch = pytest.importorskip("torch")
    source = write_model(tmp_path / "m", ODD, std=0.3)
    out, written = to_hf(source, tmp_path / "back", quant)
    assert {w.type for w in written} == {quant.upper()}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == numpy_type
    _, model = logits(out, dtype="auto")
    state = model.state_dict()
    for name, tensor in open_folder(source):
        assert state[name].dtype == getattr(torch, numpy_type)
        assert torch.equal(state[name], torch.from_numpy(tensor.copy()).to(state[name].dtype)), name
    again = open_folder(out)
    assert set(again.dtypes.values()) == {quant.upper()}


def test_convert_auto_keeps_the_type_of_each_tensor(tmp_path):
    source = open_folder(write_model(tmp_path / "m", ODD, dtype=np.float16, std=0.3))
    hf = registry.load("converters", "hf")
    source.dtypes["model.norm.weight"] = "Q4_0"  # like a block type from a GGUF: stored as F32, without loss
    written = hf.convert(source, tmp_path / "back", Converting(), lambda items, *_: iter(items))
    assert {w.name for w in written if w.type == "F32"} == {"model.norm.weight"}
    assert {w.type for w in written} == {"F16", "F32"}
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "float32"
    for name, tensor in open_folder(tmp_path / "back"):
        assert (tensor == source.tensors[name]).all()


def test_convert_bfloat16_is_unchanged(tmp_path):
    source = write_model(tmp_path / "m", ODD, std=0.3)
    first, _ = to_hf(source, tmp_path / "first", "bf16")
    second, _ = to_hf(first, tmp_path / "second")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_bfloat16_rounds_every_kind_of_number_as_torch():
    torch = pytest.importorskip("torch")
    hf = registry.load("converters", "hf")
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    ours = torch.from_numpy(hf.bfloat16(values).view(np.int16)).view(torch.bfloat16)
    nan = np.isnan(values)
    assert torch.equal(ours[~nan], theirs[~nan])
    assert torch.isnan(ours[nan]).all()


@pytest.mark.parametrize("quant, value", [("f16", 7e4), ("bf16", 3.4e38)])
def test_convert_value_out_of_range_names_the_tensor_and_leaves_nothing(tmp_path, quant, value):
    source = write_model(tmp_path / "m", ODD)
    tensors = open_folder(source).tensors
    tensors["model.norm.weight"][7] = -value
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds .*float16 cannot"):
        to_hf(source, tmp_path / "back", quant)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_convert_config_of_other_tensors_is_replaced(tmp_path):
    source = open_folder(write_model(tmp_path / "m", ODD))
    other = json.dumps(dataclasses.replace(ODD, max_position_embeddings=32).to_dict()).encode()
    source = Checkpoint(source.name, source.config, source.tensors, source.dtypes, {"config.json": other})
    hf = registry.load("converters", "hf")
    hf.convert(source, tmp_path / "back", Converting("f32"), lambda items, *_: iter(items))
    assert open_folder(tmp_path / "back").config == ODD


def test_convert_invalid_settings_raise(tmp_path):
    source = write_model(tmp_path / "m", ODD)
    with pytest.raises(SettingError, match="auto, f32, bf16, f16"):
        to_hf(source, tmp_path / "back", "q4_0")
    with pytest.raises(SettingError, match="reduce_range"):
        convert(source, "hf", tmp_path / "back", settings=Converting("f32", reduce_range=True))
    to_hf(source, tmp_path / "back")
    with pytest.raises(FileError, match="--force"):
        to_hf(source, tmp_path / "back")
    convert(source, "hf", tmp_path / "back", force=True)
