"""A Hugging Face folder: a checkpoint in another type, or a `.gguf` converted back, dequantized.

Written with numpy alone. Plain transformers loads it: `AutoModelForCausalLM.from_pretrained(folder)`.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.conversion.base import Written
from edgekit.errors import CheckpointError, SettingError
from edgekit.formats.checkpoint import WEIGHTS, Checkpoint, LlamaConfig
from edgekit.settings import Converting
from edgekit.tokenizers.carried import carried
from edgekit.tokenizers.hf_adapter import export
from edgekit.utils.progress import Progress

SUFFIX = ""

# `auto` is transformers' word for the checkpoint's own type: each tensor has the type of the source. Blocks (q4_0, ...)
# become f32, because 4 bits times a 16-bit scale do not fit into 16 bits. So the default never loses anything, and
# never doubles the size of a 16-bit checkpoint.
QUANTS: tuple[str, ...] = ("auto", "f32", "bf16", "f16")
DEFAULT = "auto"

# safetensors' name -> the name in config.json, and the bytes of a value.
TYPES = {"F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2)}


def convert(checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress) -> list[Written]:
    """Write a folder: `model.safetensors`, `config.json`, and the other files of the checkpoint.

    Raises:
        SettingError: a type that is not in `QUANTS`, or a setting that does not apply.
        CheckpointError: a value that does not fit into the type; names the tensor.
    """
    quant = (settings.quant or DEFAULT).lower()
    if quant not in QUANTS:
        raise SettingError(f"unknown type {quant!r} for hf: choose from {', '.join(QUANTS)}")
    if settings.embedding_type is not None or settings.reduce_range or settings.kv_cache != "f32":
        raise SettingError(
            "embedding_type is a setting of gguf, reduce_range and kv_cache of onnx: hf has none of them"
        )
    written = []
    for name, shape in checkpoint.config.shapes().items():
        kind = (checkpoint.dtypes[name] if quant == "auto" else quant).upper()
        kind = kind if kind in TYPES else "F32"
        written.append(Written(name, shape, kind, int(np.prod(shape)) * TYPES[kind][1]))
    out.mkdir(parents=True)
    with (out / WEIGHTS).open("wb") as file:
        file.write(safetensors_header(written))
        for w in progress(written, "tensors", len(written)):
            file.write(narrow(checkpoint.float32(w.name), w.type, f"{checkpoint.name}: tensor {w.name}").data)
    for name, data in side_files(checkpoint, {w.type for w in written}).items():
        (out / name).write_bytes(data)
    return written


def safetensors_header(written: list[Written]) -> bytes:
    """The part of a safetensors file before the tensors: https://github.com/huggingface/safetensors#format.

    Not written by the package, because numpy has no bfloat16 and its function for raw bytes changed between versions.
    """
    # transformers refuses weights whose metadata does not name a framework.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for w in written:
        header[w.name] = {"dtype": w.type, "shape": list(w.shape), "data_offsets": [end, end + w.bytes]}
        end += w.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors when the file is mapped into memory
    return struct.pack("<Q", len(text)) + text


def narrow(values: NDArray[np.float32], kind: str, where: str) -> NDArray:
    """Values as F32, F16 or BF16 (bits in uint16), rounded to nearest even.

    Raises `CheckpointError` if a finite value becomes infinite.
    """
    if kind == "F32":
        return values
    half: NDArray
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        overflown = np.isinf(half) & np.isfinite(values)
    else:
        half = bfloat16(values)
        overflown = ((half & 0x7FFF) == 0x7F80) & np.isfinite(values)
    if overflown.any():
        most = float(np.abs(values[overflown]).max())
        raise CheckpointError(f"{where} holds {most:.3g}, which {TYPES[kind][0]} cannot: choose f32")
    return half


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32, rounded to nearest even; NaN stays NaN."""
    bits = values.view(np.uint32)
    # Half of the last remaining place, less one if that place is even: a tie carries only from an odd one.
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    # A NaN with its payload in the lower half would round to infinity, or carry into the sign.
    quiet = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def side_files(checkpoint: Checkpoint, kinds: set[str]) -> dict[str, bytes]:
    """The files other than weights, by name: those of the checkpoint, with the new type in `config.json`.

    For a mixture (a GGUF keeps its norms in F32) that is float32, so that transformers rounds nothing.
    """
    dtype = TYPES[kinds.pop() if len(kinds) == 1 else "F32"][0]
    files = carried(checkpoint.files, checkpoint.config.vocab_size) | {"config.json": _config(checkpoint, dtype)}
    return export.files(files)


def _config(checkpoint: Checkpoint, dtype: str) -> bytes:
    """The checkpoint's config.json with only the type changed; a new one if it does not describe these tensors."""
    values = checkpoint.config.to_dict()
    if "config.json" in checkpoint.files:
        carried = json.loads(checkpoint.files["config.json"])
        if LlamaConfig.from_dict(carried) == checkpoint.config:
            values = carried
    # Named `torch_dtype` before transformers 4.56, which reads both names, as version 5 does.
    keys = [key for key in ("dtype", "torch_dtype") if key in values] or ["torch_dtype"]
    return (json.dumps(values | dict.fromkeys(keys, dtype), indent=2) + "\n").encode()
