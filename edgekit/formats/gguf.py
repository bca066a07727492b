"""Reading a GGUF file: its metadata and the place of each tensor, with struct alone; arrays are numpy's.

The layout (ggml/docs/gguf.md), little endian throughout:

    magic "GGUF" · u32 version · u64 number of tensors · u64 number of key-values
    key-value: string key · u32 type · value      string: u64 length · bytes
    array: u32 type of its items · u64 count · items
    tensor: string name · u32 dimensions · u64 each, fastest first · u32 type · u64 offset into the data
    padding to `general.alignment` (32) · the data, each tensor padded to the alignment

The file is mapped, not read: opening it walks over the strings, and numeric arrays are views, made when they are asked
for. Every count and length is checked against the size of the file before anything is allocated.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import embedded
from edgekit.utils.files import open_regular, os_reason
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLOCKS", "NUMBER", "TYPES", "GGUFFile", "TensorInfo"]

MAGIC = b"GGUF"
ALIGNMENT = 32

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)

# The types of numbers, by numpy's names; the last character is the size.
NUMBERS = {
    UINT8: "<u1",
    INT8: "<i1",
    UINT16: "<u2",
    INT16: "<i2",
    UINT32: "<u4",
    INT32: "<i4",
    FLOAT32: "<f4",
    UINT64: "<u8",
    INT64: "<i8",
    FLOAT64: "<f8",
}
WIDTH = {kind: int(dtype[-1]) for kind, dtype in NUMBERS.items()}

# ggml's tensor types: number -> name, elements in a block, bytes of a block (ggml.c, `type_traits`).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
NUMBER = {name: number for number, (name, _, _) in TYPES.items()}
BLOCKS = {name: (elements, size) for name, elements, size in TYPES.values()}

# Far above any real file (the largest vocabularies have half a million merges), and low enough that a hostile one
# can neither take long nor fill the memory.
MOST_STRINGS = 1 << 22
MOST_ENTRIES = 1 << 16
LONGEST_NAME = 1 << 16


@dataclass(frozen=True)
class TensorInfo:
    """The place of one tensor. `shape` is in numpy's order: the row width is last."""

    name: str
    shape: tuple[int, ...]
    type: str
    """ggml's name: F32, Q4_0, ..."""
    bytes: int
    offset: int
    """From the start of the file."""


@dataclass(frozen=True)
class Numbers:
    """An array in a file, before it is one of numpy's."""

    data: Any
    kind: int
    count: int
    offset: int
    boolean: bool = False

    def array(self) -> NDArray:
        """A read-only view, (count,)."""
        dtype = NUMBERS[self.kind]
        values = np.frombuffer(self.data, dtype, self.count, self.offset) if self.count else np.empty(0, dtype)
        return values.view(np.bool_) if self.boolean else values

    def raw(self) -> bytes:
        """A copy of the array's bytes."""
        return bytes(self.data[self.offset : self.offset + self.count * WIDTH[self.kind]])


class Metadata(Mapping[str, Any]):
    """A file's keys, in order. An array of numbers becomes numpy's when it is asked for."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._arrays: dict[str, NDArray] = {}

    def add(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if not isinstance(value, Numbers):
            return value
        if key not in self._arrays:
            self._arrays[key] = value.array()
        return self._arrays[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def texts(self) -> dict[str, str]:
        return {key: value for key, value in self._values.items() if isinstance(value, str)}

    def blobs(self) -> dict[str, bytes]:
        """A copy of each array of bytes."""
        numbers = {key: value for key, value in self._values.items() if isinstance(value, Numbers)}
        return {k: v.raw() for k, v in numbers.items() if v.kind == UINT8 and not v.boolean}


class GGUFFile:
    """An open GGUF file.

    Attributes:
        version: 2 or 3.
        metadata: values by key: int, float, bool, str (bytes that are not UTF-8 become surrogates, as in file names),
            a list of str, or a read-only numpy array (bool for booleans).
        tensors: `TensorInfo` by name, in file order.
        size: of the file, in bytes.
        map: all of them, read-only.

    Raises:
        FileError: the system cannot open the file.
        CheckpointError: not a GGUF file, or damaged; the message names the file and the key or tensor.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            with open_regular(self.path) as file:
                self.size = os.fstat(file.fileno()).st_size
                self.map: mmap.mmap | bytes = b""
                if self.size:
                    self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {os_reason(error)}") from error
        try:
            reader = _Reader(self.map, self.size)
            self.version, self.metadata, self.tensors = reader.file()
        except _Damage as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def data(self, name: str) -> NDArray[np.uint8]:
        """One tensor's bytes, a read-only view of the mapped file, shape (bytes,)."""
        info = self.tensors[name]
        return np.frombuffer(self.map, np.uint8, info.bytes, info.offset)

    def files(self) -> dict[str, bytes]:
        """The embedded files, by name. Raises `CheckpointError` if one does not match its sha256."""
        return embedded.unpack(self.metadata.texts(), self.metadata.blobs(), self.path)


class _Damage(Exception):
    """What is wrong, without the file's name."""


_UNPACK = {kind: struct.Struct("<" + letter).unpack_from for kind, letter in zip(NUMBERS, "BbHhIifQqd", strict=True)}
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from


class _Reader:
    """A cursor over the mapped bytes; `where` is what is being read, for the message."""

    def __init__(self, data: Any, size: int):
        self.data, self.size, self.position, self.where = data, size, 0, "the header"

    def file(self) -> tuple[int, Metadata, dict[str, TensorInfo]]:
        if self.size < 4 or self.data[:4] != MAGIC:
            raise _Damage("not a GGUF file (it does not begin with `GGUF`)")
        self.position = 4
        version = self.number(UINT32)
        if version not in (2, 3):
            if version >> 16:
                raise _Damage("a big-endian GGUF file; edgekit reads little-endian ones")
            raise _Damage(f"GGUF version {version}; edgekit reads 2 and 3")
        tensors, keys = self.number(UINT64), self.number(UINT64)
        # The smallest entries: an empty name and a value of one byte; an empty name and no dimension.
        self.check_count(keys, 13, MOST_ENTRIES, "keys")
        self.check_count(tensors, 24, MOST_ENTRIES, "tensors")
        metadata = Metadata()
        for i in range(keys):
            self.where = f"key {i + 1} of {keys}"
            key = self.name()
            self.where = f"key {key!r}"
            if key in metadata:
                raise _Damage(f"key {key!r} occurs twice")
            metadata.add(key, self.value(self.number(UINT32)))
        return version, metadata, self.infos(tensors, _alignment(metadata))

    def infos(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        infos: dict[str, TensorInfo] = {}
        for i in range(count):
            self.where = f"tensor {i + 1} of {count}"
            info = self.info()
            if info.name in infos:
                raise _Damage(f"tensor {info.name!r} occurs twice")
            infos[info.name] = info
        start = -(-self.position // alignment) * alignment
        # llama.cpp accepts tensors only one after the other; so does edgekit, and none can overlap another.
        expected = 0
        for info in infos.values():
            if info.offset != expected:
                raise _Damage(f"tensor {info.name!r} begins at {info.offset} of the data, not at {expected}")
            if start + info.offset + info.bytes > self.size:
                raise _Damage(f"tensor {info.name!r} reaches past the end of the file: it is cut off")
            expected += -(-info.bytes // alignment) * alignment
        return {n: TensorInfo(n, i.shape, i.type, i.bytes, start + i.offset) for n, i in infos.items()}

    def info(self) -> TensorInfo:
        name = self.name()
        self.where = f"tensor {name!r}"
        dimensions = self.number(UINT32)
        if not 1 <= dimensions <= 4:
            raise _Damage(f"tensor {name!r} has {dimensions} dimensions, not 1 to 4")
        shape = tuple(self.number(UINT64) for _ in range(dimensions))
        number = self.number(UINT32)
        if number not in TYPES:
            raise _Damage(f"tensor {name!r} has the unknown type {number}")
        kind, elements, size = TYPES[number]
        count = 1
        for width in shape:
            count *= width
        if count == 0 or count >= 1 << 60:
            raise _Damage(f"tensor {name!r} has the impossible shape {list(shape[::-1])}")
        if shape[0] % elements:
            raise _Damage(f"tensor {name!r}: rows of {shape[0]} do not divide into {kind} blocks of {elements}")
        return TensorInfo(name, shape[::-1], kind, count // elements * size, self.number(UINT64))

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(kind)
        if kind == BOOL:
            return bool(self.boolean(self.number(UINT8)))
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        raise _Damage(f"{self.where} has the unknown type {kind}")

    def array(self) -> list[str] | Numbers:
        kind, count = self.number(UINT32), self.number(UINT64)
        if kind == STRING:
            self.check_count(count, 8, MOST_STRINGS, "strings")
            return self.strings(count)
        if kind == BOOL:
            values = self.numbers(UINT8, count)
            self.boolean(max(values.raw(), default=0))
            return replace(values, boolean=True)
        if kind not in NUMBERS:
            what = "arrays" if kind == ARRAY else f"items of the unknown type {kind}"
            raise _Damage(f"{self.where} is an array of {what}, which GGUF readers do not take")
        return self.numbers(kind, count)

    def numbers(self, kind: int, count: int) -> Numbers:
        self.check_count(count, WIDTH[kind], 1 << 60, "items")
        values = Numbers(self.data, kind, count, self.position)
        self.position += count * WIDTH[kind]
        return values

    def strings(self, count: int) -> list[str]:
        # The only long loop in a real file, so without a call per string.
        data, size, at, texts = self.data, self.size, self.position, []
        for _ in range(count):
            if at + 8 > size:
                raise self.cut()
            (length,) = _U64(data, at)
            at += 8 + length
            if at > size:
                raise self.cut()
            texts.append(data[at - length : at].decode("utf-8", "surrogateescape"))
        self.position = at
        return texts

    def text(self) -> str:
        length = self.number(UINT64)
        if length > self.size - self.position:
            raise self.cut()
        self.position += length
        return self.data[self.position - length : self.position].decode("utf-8", "surrogateescape")

    def name(self) -> str:
        (length,) = _U64(self.data, self.position) if self.position + 8 <= self.size else (0,)
        if length > LONGEST_NAME:
            raise _Damage(f"{self.where} has a name of {length} bytes: the file is damaged")
        name = self.text()
        if not name.isprintable():  # the names go into one-line messages
            raise _Damage(f"{self.where} is named {name[:60]!r}: the file is damaged")
        return name

    def number(self, kind: int) -> Any:
        if self.position + WIDTH[kind] > self.size:
            raise self.cut()
        (value,) = _UNPACK[kind](self.data, self.position)
        self.position += WIDTH[kind]
        return value

    def boolean(self, value: int) -> int:
        if value > 1:
            raise _Damage(f"{self.where} is a boolean of value {value}: the file is damaged")
        return value

    def check_count(self, count: int, least: int, most: int, what: str) -> None:
        """Refuse a count of items, of at least `least` bytes each, that do not fit in the rest of the file."""
        if count * least > self.size - self.position:
            raise _Damage(f"{self.where} claims {count} {what}, more than the file holds: it is cut off or damaged")
        if count > most:
            raise _Damage(f"{self.where} claims {count} {what}; edgekit reads at most {most}")

    def cut(self) -> _Damage:
        return _Damage(f"the file ends inside {self.where}: it is cut off or damaged")


def _alignment(metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1 << 20 or value & (value - 1):
        raise _Damage(f"general.alignment must be a power of two, not {value!r}")
    return value
