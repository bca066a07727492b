"""From a GGUF file back to tensors and checkpoints: any file of the `llama` architecture, dequantized."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgekit.converters._gguf_package as gguf
from edgekit.conversion.base import ArtefactTensor
from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.embedded import FILES
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.gguf_config import CARRIED_FIELDS, llama_config
from edgekit.formats.gguf_tensors import ROPE, gguf_name, unpermute
from edgekit.formats.rope import frequencies
from edgekit.tokenizers.llamacpp import rebuild


def read(path: Path) -> Checkpoint:
    """Open a GGUF file as a checkpoint; block types are dequantized to float32, with a note.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: damaged, or not a Llama that edgekit supports; names the key or tensor.
    """
    file = GGUFFile(path)
    config, files = llama_config(file), file.files()
    if _stores_tied_head(file):
        config = dataclasses.replace(config, tie_word_embeddings=True)
    notes: list[str] = []
    if "config.json" in files:
        config = _embedded_config(files["config.json"], config, path)
    if not any(name in files for name in FILES):
        rebuilt, note = rebuild.files(file, config)
        files |= rebuilt
        notes += [note] if note else []
    files.setdefault("config.json", json.dumps(config.to_dict(), indent=2).encode())
    tensors, dtypes = _tensors(file, config)
    quantized = sorted({info.type for info in file.tensors.values()} - {"F32", "F16", "BF16"})
    if quantized:
        notes.append(f"dequantized from {', '.join(quantized)}: what quantizing lost stays lost")
    stated = str(file.metadata.get("general.name", ""))
    name = stated if re.fullmatch(r"\w[\w.-]{0,63}", stated) else Path(path).stem
    return Checkpoint(name, config, tensors, dtypes, files, notes)


def weights(artefact: Path | GGUFFile) -> Iterator[ArtefactTensor]:
    """Every tensor of a `llama` file, dequantized, in Hugging Face's order of names and of rows.

    Raises:
        FileError, CheckpointError: damaged, another architecture, a tensor that is missing, or of a type that
            cannot be dequantized.
    """
    file = artefact if isinstance(artefact, GGUFFile) else GGUFFile(artefact)
    config = llama_config(file)
    for name, shape in config.shapes().items():
        stored = gguf_name(name)
        if name == "lm_head.weight" and stored not in file.tensors:
            continue
        if name.endswith(".bias") and stored not in file.tensors:
            yield ArtefactTensor(name, np.zeros(shape, np.float32), "F32")
            continue
        if stored not in file.tensors:
            raise CheckpointError(f"{file.path}: tensor {stored} is missing")
        values = _dequantized(file, stored).astype(np.float32, copy=False)
        if values.shape == shape:
            values = unpermute(name, values, config)
        yield ArtefactTensor(name, values, file.tensors[stored].type)


def _stores_tied_head(file: GGUFFile) -> bool:
    """Whether the output matrix is a copy of the embedding, as some programs write tied models."""
    head, embedding = file.tensors.get("output.weight"), file.tensors["token_embd.weight"]
    if head is None or head.type != embedding.type:
        return False
    return np.array_equal(file.data(head.name), file.data(embedding.name))


def _embedded_config(data: bytes, stated: LlamaConfig, where: Path) -> LlamaConfig:
    """The embedded `config.json`, compared with the file's own keys. Raises `CheckpointError` where they disagree."""
    try:
        values = json.loads(data)
        config = LlamaConfig.from_dict(values, f"{where}: config.json")
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{where}: the config.json inside is not JSON: {error}") from error
    for field in CARRIED_FIELDS:
        inside, key = getattr(config, field), getattr(stated, field)
        if np.float32(inside) != np.float32(key):
            raise CheckpointError(f"{where}: {field} is {inside} in the config.json inside, {key} in the file's keys")
    inside, keys = (frequencies(c.head_dim, c.rope_theta, c.rope_scaling) for c in (config, stated))
    if not np.allclose(inside, keys, rtol=1e-5):
        raise CheckpointError(f"{where}: rope_scaling of the config.json inside is not that of the file")
    return config


def _tensors(file: GGUFFile, config: LlamaConfig) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Tensors by Hugging Face's names, Q and K rows in Hugging Face's order, and the type of each.

    Missing and misshapen tensors are left for `Checkpoint` to find.

    Raises:
        CheckpointError: a tensor that is unexpected or of a type that cannot be dequantized.
    """
    names = {gguf_name(name): name for name in config.shapes()}
    names.setdefault("output.weight", "lm_head.weight")  # tied and stored all the same: `Checkpoint` compares them
    tensors: dict[str, NDArray] = {}
    dtypes: dict[str, str] = {}
    for info in file.tensors.values():
        if info.name == ROPE:
            continue  # `llama_config` reads it
        if info.name not in names:
            raise CheckpointError(f"{file.path}: unexpected tensor {info.name}")
        name = names[info.name]
        values = _dequantized(file, info.name)
        if values.shape == config.shapes().get(name, values.shape):
            values = unpermute(name, values, config)
        tensors[name], dtypes[name] = values, info.type if info.type in ("F16", "BF16") else "F32"
    for name, shape in config.shapes().items():
        if name.endswith(".bias") and name not in tensors:  # llama.cpp takes any of them, transformers all of a half
            tensors[name], dtypes[name] = np.zeros(shape, np.float32), "F32"
    return tensors, dtypes


def _dequantized(file: GGUFFile, name: str) -> NDArray:
    """One tensor in its own shape: float16 as it is stored, every other type as float32."""
    info, raw = file.tensors[name], file.data(name)
    if info.type in ("F32", "F16"):
        return raw.view(np.float32 if info.type == "F32" else np.float16).reshape(info.shape)
    try:
        values = gguf.dequantize(raw.reshape(info.shape[0], -1), gguf.GGMLQuantizationType[info.type])
    except (NotImplementedError, KeyError) as error:
        raise CheckpointError(f"{file.path}: tensor {name} is {info.type}, which edgekit cannot dequantize") from error
    return values.reshape(info.shape)
