"""From a GGUF file back to a checkpoint: any `llama` architecture file, whoever wrote it, dequantized."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.converters import _gguf_foreign
from edgekit.converters import _gguf_package as gguf
from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.embedded import FILES
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.gguf_config import llama_config
from edgekit.formats.gguf_tensors import gguf_name, unpermute


def read(path: Path) -> Checkpoint:
    """Open a GGUF file as a checkpoint; block types come dequantized to float32, with a note.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: damaged, or no Llama that edgekit supports; names the key or tensor.
    """
    file = GGUFFile(path)
    config, files = llama_config(file), file.files()
    if _written_twice(file):
        config = dataclasses.replace(config, tie_word_embeddings=True)
    notes: list[str] = []
    if "config.json" in files:
        config = _agreeing(files["config.json"], config, path)
    if not any(name in files for name in FILES):
        made, note = _gguf_foreign.files(file, config)
        files |= made
        notes += [note] if note else []
    files.setdefault("config.json", json.dumps(config.to_dict(), indent=2).encode())
    tensors, dtypes = tensors_of(file, config)
    quantized = sorted({info.type for info in file.tensors.values()} - {"F32", "F16", "BF16"})
    if quantized:
        notes.append(f"dequantized from {', '.join(quantized)}: what quantizing lost stays lost")
    named = str(file.metadata.get("general.name", ""))
    name = named if re.fullmatch(r"\w[\w.-]{0,63}", named) else Path(path).stem
    return Checkpoint(name, config, tensors, dtypes, files, notes)


def _written_twice(file: GGUFFile) -> bool:
    """Whether the output matrix is the embedding again, as some programs write tied models."""
    one, other = file.tensors.get("output.weight"), file.tensors["token_embd.weight"]
    return one is not None and one.type == other.type and np.array_equal(file.data(one.name), file.data(other.name))


def _agreeing(data: bytes, stated: LlamaConfig, where: Path) -> LlamaConfig:
    """The carried `config.json`, held to the file's own keys. Raises `CheckpointError` where they disagree."""
    try:
        values = json.loads(data)
        carried = LlamaConfig.from_dict(values, f"{where}: config.json")
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{where}: the config.json inside is not JSON: {error}") from error
    for field in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
    ):
        one, other = getattr(carried, field), getattr(stated, field)
        if np.float32(one) != np.float32(other):
            raise CheckpointError(f"{where}: {field} is {one} in the config.json inside, {other} in the keys beside it")
    return carried


def tensors_of(file: GGUFFile, config: LlamaConfig) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Tensors by Hugging Face's names, Q and K rows in Hugging Face's order, and what type each had.

    Raises `CheckpointError` for a tensor that is unexpected or of a type that cannot be dequantized; those missing
    or misshapen are for `Checkpoint` to find.
    """
    names = {gguf_name(name): name for name in config.shapes()}
    names.setdefault("output.weight", "lm_head.weight")  # tied, and written all the same: `Checkpoint` compares
    tensors: dict[str, NDArray] = {}
    dtypes: dict[str, str] = {}
    for info in file.tensors.values():
        if info.name == "rope_freqs.weight":
            raise CheckpointError(f"{file.path}: tensor rope_freqs.weight scales the rotary embedding: not supported")
        if info.name not in names:
            raise CheckpointError(f"{file.path}: unexpected tensor {info.name}")
        name = names[info.name]
        values = _decoded(file, info.name).reshape(info.shape)
        if values.shape == config.shapes().get(name, values.shape):
            values = unpermute(name, values, config)
        tensors[name], dtypes[name] = values, info.type if info.type in ("F16", "BF16") else "F32"
    return tensors, dtypes


def _decoded(file: GGUFFile, name: str) -> NDArray:
    kind, raw = file.tensors[name].type, file.data(name)
    if kind == "F32":
        return raw.view(np.float32)
    if kind == "F16":
        return raw.view(np.float16)
    try:
        return gguf.dequantize(raw.reshape(file.tensors[name].shape[0], -1), gguf.GGMLQuantizationType[kind])
    except (NotImplementedError, KeyError) as error:
        raise CheckpointError(f"{file.path}: tensor {name} is {kind}, which edgekit cannot dequantize") from error
