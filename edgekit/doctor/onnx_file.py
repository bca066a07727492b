"""The outline of an ONNX file, read without the package `onnx` and without its weights being read.

An ONNX file is one protobuf message (onnx/onnx.proto). What is wanted of it lies near the top: metadata, opsets, the
names of inputs and outputs, the nodes' operators, and where each initializer's bytes are. The file stays mapped.
"""

import math
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.doctor.tensors import LFS, WIDTH, Tensor
from edgekit.errors import CheckpointError, FileError
from edgekit.utils.files import os_reason

# onnx.proto, TensorProto.DataType -> safetensors' names, which the doctor uses for all.
TYPES = {1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64",
         16: "BF16"}  # fmt: skip
EXTERNAL = 1  # TensorProto.DataLocation

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5


@dataclass
class OnnxFile:
    """`tensors` are the initializers of the main graph; `external` says in which files beside it some of them are."""

    ir_version: int = 0
    producer: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)
    """How many of each operator, as `com.microsoft.MatMulNBits`."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    """Initializer -> file name."""


class _Damage(Exception):
    pass


def read(path: Path) -> OnnxFile:
    """Walk a file's outline.

    Raises:
        FileError: the system cannot open it.
        CheckpointError: it is no ONNX model, or cut off.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error
    if data[: len(LFS)] == LFS:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the model")
    found = OnnxFile()
    try:
        _model(found, data)
    except (_Damage, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole ONNX file: it is cut off or damaged") from error
    if not found.nodes or not found.opsets:
        raise CheckpointError(f"{path} is not an ONNX model: it has no graph")
    return found


def _model(found: OnnxFile, data: Any) -> None:
    for number, value in _fields(data, 0, len(data)):
        if number == 1 and isinstance(value, int):
            found.ir_version = value
        elif number == 2:
            found.producer = _text(data, value)
        elif number == 7:
            _graph(found, data, value)
        elif number == 8:
            parts = dict(_fields(data, *_span(value)))
            found.opsets[_text(data, parts[1]) if 1 in parts else ""] = int(parts.get(2, 0))
        elif number == 14:
            key, text = _pair(data, value)
            found.metadata[key] = text


def _graph(found: OnnxFile, data: Any, value: Any) -> None:
    for number, part in _fields(data, *_span(value)):
        if number == 1:
            node = dict(_fields(data, *_span(part)))
            operator = _text(data, node[4]) if 4 in node else ""
            domain = _text(data, node[7]) if 7 in node else ""
            found.nodes[f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator] += 1
        elif number == 5:
            _initializer(found, data, part)
        elif number in (11, 12):
            names = dict(_fields(data, *_span(part)))
            (found.inputs if number == 11 else found.outputs).append(_text(data, names[1]) if 1 in names else "")


def _initializer(found: OnnxFile, data: Any, value: Any) -> None:
    shape: list[int] = []
    kind, name, raw, location, beside = 0, "", None, 0, {}
    for number, part in _fields(data, *_span(value)):
        if number == 1:
            shape += [part] if isinstance(part, int) else _varints(data, part)
        elif number == 2 and isinstance(part, int):
            kind = part
        elif number == 8:
            name = _text(data, part)
        elif number in (4, 9):  # float_data (packed, so the same bytes) or raw_data
            raw = part
        elif number == 13:
            key, text = _pair(data, part)
            beside[key] = text
        elif number == 14 and isinstance(part, int):
            location = part
    typed, width = TYPES.get(kind, f"type {kind}"), WIDTH.get(TYPES.get(kind, ""), 0)
    values = None
    if location == EXTERNAL:
        found.external[name] = beside.get("location", "")
    elif raw is not None and width and raw[1] - raw[0] == width * math.prod(shape):
        values = np.frombuffer(data, np.uint8, raw[1] - raw[0], raw[0])
    found.tensors[name] = Tensor(name, tuple(shape), typed, values)


def _fields(data: Any, at: int, end: int) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an int, or (start, end) of what has a length."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if wire not in (EIGHT, BYTES, FOUR) or not number:
            raise _Damage
        size, at = _varint(data, at, end) if wire == BYTES else (8 if wire == EIGHT else 4, at)
        if at + size > end:
            raise _Damage
        yield number, (at, at + size)
        at += size


def _varint(data: Any, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Damage


def _varints(data: Any, span: Any) -> list[int]:
    at, end = _span(span)
    found = []
    while at < end:
        value, at = _varint(data, at, end)
        found.append(value)
    return found


def _span(value: Any) -> tuple[int, int]:
    if not isinstance(value, tuple):
        raise _Damage  # a number where a message should be
    return value


def _text(data: Any, value: Any) -> str:
    start, end = _span(value)
    return bytes(data[start:end]).decode("utf-8")


def _pair(data: Any, value: Any) -> tuple[str, str]:
    """A StringStringEntryProto."""
    parts = dict(_fields(data, *_span(value)))
    return (_text(data, parts[1]) if 1 in parts else "", _text(data, parts[2]) if 2 in parts else "")
