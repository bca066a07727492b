"""Shared by tests, next to the fixtures of conftest.py: the shared folder's path, and small models."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from edgekit.formats.checkpoint import LlamaConfig

SHARED = Path(__file__).resolve().parents[2] / "shared"
NO_SHARED = "needs the project's shared folder next to the checkout (real vocabularies, texts and a trained model)"

STENTOR = LlamaConfig(
    vocab_size=8064,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=12,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    bos_token_id=8001,
    eos_token_id=(8000,),
    pad_token_id=8000,
)


def write_model(folder: Path, config: LlamaConfig, *, seed: int = 0, dtype=np.float32, files=None, std=0.05) -> Path:
    """A Hugging Face folder with seeded weights. `std` well above the usual 0.02, so that the logits are not flat
    and a greedy choice is not a coin toss between rounding errors."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.shapes().items():
        if name.endswith("norm.weight"):
            tensors[name] = (1 + 0.1 * rng.standard_normal(shape)).astype(dtype)
        else:
            tensors[name] = (std * rng.standard_normal(shape)).astype(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2))
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
    return folder


def tokenmonster_files(vocab: bytes, vocab_size: int = 8064, **config) -> dict[str, bytes]:
    """The files of a TokenMonster checkpoint other than weights, as in Stentor2's model card."""
    values = {
        "tokenizer_type": "tokenmonster",
        "vocab_file": "tokenmonster.vocab",
        "model_max_length": 1024,
        "eos_token": "</s>",
        "bos_token": "<s>",
        "pad_token": "</s>",
        "vocab_size": vocab_size,
        **config,
    }
    return {"tokenizer_config.json": json.dumps(values).encode(), "tokenmonster.vocab": vocab}


def rewritten(path: Path, out: Path, **changes) -> Path:
    """A copy of a GGUF file as another program would write it: without edgekit's own keys.

    Args:
        changes: other values for some keys (`__` for `.`); None leaves a key out.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, "llama")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "edgekit.", "general.architecture")):
            continue
        value, kind = changes.get(key, field.contents()), field.types[0]
        if value is not None:
            kind = gguf.GGUFValueType.STRING if isinstance(value, str) else kind
            writer.add_key_value(key, value, kind, sub_type=field.types[-1] if len(field.types) > 1 else None)
    if "general.architecture" in changes:
        writer.kv_data[0]["general.architecture"].value = changes["general.architecture"]
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
