"""An ONNX file written tensor by tensor: one of them is in memory at a time, however large the model.

The package `onnx` serializes a whole model, which holds every weight twice more. But an ONNX file is a protobuf message
(onnx.proto3), where a part is its tag, its length and its bytes. So the small parts are left to `onnx`, and the
tensors are put between them; the file is, byte for byte, what `onnx` would have written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

# onnx.proto3: where a part belongs, as a protobuf tag (number << 3 | 2: something that has a length).
GRAPH, INITIALIZER, RAW_DATA = 7 << 3 | 2, 5 << 3 | 2, 9 << 3 | 2


@dataclass(frozen=True)
class Spec:
    """A tensor that is still to be made."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """Tensors that are made together, when they are written."""

    specs: tuple[Spec, ...]
    make: Callable[[], Sequence[NDArray]]


def write(path: Path, model: ModelProto, parts: Iterable[Part], specs: Sequence[Spec]) -> None:
    """Write `model`, which has no initializers, with those of `parts`.

    Args:
        specs: of all the parts in their order, since a message's length stands before it.
    """
    heads = {spec.name: _head(spec) for spec in specs}
    first, last = _around(model, heads, specs)
    with Path(path).open("wb") as file:
        file.write(first)
        for part in parts:
            for spec, array in zip(part.specs, part.make(), strict=True):
                assert array.shape == spec.shape and array.dtype == spec.dtype, spec
                file.write(heads[spec.name])
                file.write(np.ascontiguousarray(array).data)
        file.write(last)


def size(model: ModelProto, specs: Sequence[Spec]) -> int:
    """How many bytes `write` will write."""
    heads = {spec.name: _head(spec) for spec in specs}
    return sum(map(len, _around(model, heads, specs))) + sum(len(heads[spec.name]) + spec.bytes for spec in specs)


def _around(model: ModelProto, heads: Mapping[str, bytes], specs: Sequence[Spec]) -> tuple[bytes, bytes]:
    """All of the file before and behind the tensors."""
    graph = model.graph
    before = GraphProto(node=graph.node, name=graph.name).SerializeToString(deterministic=True)
    after = GraphProto(input=graph.input, output=graph.output).SerializeToString(deterministic=True)
    length = len(before) + len(after) + sum(len(heads[spec.name]) + spec.bytes for spec in specs)
    first = ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version
    )
    last = ModelProto(opset_import=model.opset_import, metadata_props=model.metadata_props)
    return (
        first.SerializeToString(deterministic=True) + _tag(GRAPH, length) + before,
        after + last.SerializeToString(deterministic=True),
    )


def _head(spec: Spec) -> bytes:
    """All of an initializer that stands before its bytes."""
    kind = helper.np_dtype_to_tensor_dtype(spec.dtype)
    tensor = TensorProto(dims=spec.shape, data_type=kind, name=spec.name).SerializeToString()
    tensor += _tag(RAW_DATA, spec.bytes)
    return _tag(INITIALIZER, len(tensor) + spec.bytes) + tensor


def _tag(tag: int, length: int) -> bytes:
    """A part's tag, and its length as a base 128 varint."""
    out = bytearray([tag])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length])
