"""A Hugging Face Llama folder in memory, read with numpy alone, and checked.

A checkpoint that loads silently and generates nonsense is the worst outcome. Every key of the configuration is
therefore either understood or refused by name (`llama_config.py`), and every tensor must exist, have the right shape
(`folder.py`) and be finite.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.formats.folder import (
    DEFAULT_TEMPLATE,
    EMBEDDING,
    HEAD,
    INDEX,
    WEIGHTS,
    full_name,
    read_folder,
    settle,
    shards_of,
    side_files,
    without_prefix,
)
from edgekit.formats.llama_config import (
    KINDS,
    MISTRAL,
    MOST_LAYERS,
    MUST_BE,
    LlamaConfig,
    unknown_keys,
    unsupported,
)
from edgekit.formats.safetensors import Entry, entries

__all__ = [
    "DEFAULT_TEMPLATE", "INDEX", "KINDS", "MISTRAL", "MOST_LAYERS", "MUST_BE", "WEIGHTS", "Checkpoint", "LlamaConfig",
    "full_name", "open_folder", "read_safetensors", "shards_of", "side_files", "unknown_keys", "unsupported",
    "widen_bfloat16", "without_prefix",
]  # fmt: skip

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass
class Checkpoint:
    """A whole model in memory: configuration, tensors and the other files.

    `tensors` maps each name of `config.shapes()` to an array of float32 or float16 (BF16 is widened to float32,
    losslessly); `dtypes` has the type in the file: "F32", "F16" or "BF16". `notes` are messages for the user.
    """

    name: str
    config: LlamaConfig
    tensors: dict[str, NDArray]
    dtypes: dict[str, str]
    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if EMBEDDING not in self.dtypes and HEAD in self.dtypes:  # safetensors' save_model keeps one name
            self.dtypes[EMBEDDING] = self.dtypes[HEAD]
        settle(self.name, self.config, self.tensors, np.array_equal)
        for name in self.config.shapes():
            if not (finite := np.isfinite(self.tensors[name])).all():
                count = int((~finite).sum())
                raise CheckpointError(f"{self.name}: tensor {name} has {count} values that are NaN or infinite")

    def float32(self, name: str) -> NDArray[np.float32]:
        """One tensor widened to float32, C order."""
        return np.ascontiguousarray(self.tensors[name], dtype=np.float32)

    def __iter__(self) -> Iterator[tuple[str, NDArray]]:
        return iter(self.tensors.items())

    @cached_property
    def sha256(self) -> str:
        """Over everything that a conversion can depend on: tensors in order, and the other files."""
        digest = hashlib.sha256()
        for name in self.config.shapes():
            digest.update(f"{name} {self.dtypes[name]}\0".encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).data)
        for name in sorted(self.files):
            digest.update(f"\0{name}\0".encode())
            digest.update(self.files[name])
        return digest.hexdigest()


def open_folder(path: Path) -> Checkpoint:
    """Read a Hugging Face folder: `config.json` and safetensors, one file or sharded.

    Raises:
        FileError: a file cannot be read.
        CheckpointError: as `folder.read_folder`, or a tensor that is not finite; the message names it.
    """
    folder = read_folder(path, lambda a, b: a is b or np.array_equal(array(a), array(b)))
    tensors = {name: array(entry) for name, entry in folder.entries.items()}
    dtypes = {name: entry.dtype for name, entry in folder.entries.items()}
    return Checkpoint(folder.name, folder.config, tensors, dtypes, folder.files)


def array(entry: Entry) -> NDArray:
    """A tensor of a safetensors file, float16 or float32: BF16 comes widened. Raises `FileError`, `CheckpointError`."""
    if entry.dtype not in DTYPES:
        raise CheckpointError(f"{entry.path}: tensor {entry.name} is {entry.dtype}; edgekit reads F32, F16 and BF16")
    values: NDArray = np.frombuffer(entry.read(), DTYPES[entry.dtype]).reshape(entry.shape)
    return widen_bfloat16(values) if entry.dtype == "BF16" else values


def read_safetensors(path: Path) -> Iterator[tuple[str, NDArray, str]]:
    """(name, array, dtype) of each tensor in one file; BF16 comes widened to float32.

    Raises `FileError`, or `CheckpointError` for a damaged file, or a type that is not a float of 16 or 32 bits.
    """
    for entry in entries(path):
        yield entry.name, array(entry), entry.dtype


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32, of which it is the upper half. numpy has no such type."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
