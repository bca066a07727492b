"""The header of a safetensors file: what is in it and where, with Python alone.

    u64 length · JSON of that length: name -> {"dtype", "shape", "data_offsets"} · the data

https://github.com/huggingface/safetensors#format. Tensors are read one by one, so a file is never in memory twice.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, FileError
from edgekit.utils.files import open_regular, os_reason

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a value, by the format's names of the types that edgekit reads."""
LONGEST = 100_000_000
"""Of a header, as in the package safetensors."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `offset` is from the file's start."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    def read_into(self, buffer: memoryview) -> None:
        """Its bytes, C order, little endian, into a buffer of that size. Raises `FileError`."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.offset)
                done = 0
                while done < self.bytes:
                    count = file.readinto(buffer[done:])
                    if not count:
                        raise FileError(f"cannot read {self.path}: it became shorter")
                    done += count
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {os_reason(error)}") from error

    def read(self) -> bytearray:
        """A copy of its bytes. Raises `FileError`."""
        data = bytearray(self.bytes)
        self.read_into(memoryview(data))
        return data


def entries(path: Path) -> list[Entry]:
    """The tensors of a file by their places in it, of any type.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: it is damaged or cut off: the tensors must fill it without a gap, as the package safetensors
            requires.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 0 < length <= min(LONGEST, size - 8) else b""
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error
    if not text:
        raise _damaged(path, "it has no complete header")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        found = [_entry(path, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its header is damaged") from error
    found.sort(key=lambda entry: (entry.offset, entry.bytes))
    end = 8 + length
    for entry in found:
        if entry.offset != end:
            raise _damaged(path, f"tensor {entry.name} begins at {entry.offset}, not at {end}")
        end += entry.bytes
        claimed = math.prod(entry.shape) * WIDTH.get(entry.dtype, 0)
        if entry.dtype in WIDTH and claimed != entry.bytes:
            raise _damaged(path, f"tensor {entry.name} has {entry.bytes} bytes, its shape and type say {claimed}")
    if end != size:
        raise _damaged(path, f"it has {size} bytes, its header says {end}")
    return found


def _entry(path: Path, name: str, entry: dict[str, Any], start: int) -> Entry:
    """Raises `ValueError`, `TypeError` or `LookupError` for anything but the format's."""
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(type(number) is int and 0 <= number < 1 << 60 for number in (*shape, begin, end)) or begin > end:
        raise ValueError("not a place")
    if not name.isprintable() or not str(entry["dtype"]).isprintable():  # they go into one-line messages
        raise ValueError("not a name")
    return Entry(path, name, str(entry["dtype"]), tuple(shape), start + begin, end - begin)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file: {why}")
