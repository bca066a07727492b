"""Writes an ONNX file tensor by tensor, so that only one is in memory at a time, however large the model.

The package `onnx` serializes a whole model, with two more copies of every weight. But an ONNX file is a protobuf
message (onnx.proto3), whose fields are a tag, a length and bytes. So the small fields are left to `onnx`, and the
tensors are written between them; the file is, byte for byte, what `onnx` would have written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from edgekit.formats import protobuf

# onnx.proto3: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9


@dataclass(frozen=True)
class Spec:
    """A tensor that is not computed yet."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """Tensors that are computed together, when they are written."""

    specs: tuple[Spec, ...]
    make: Callable[[], Sequence[NDArray]]


def write(path: Path, model: ModelProto, parts: Iterable[Part], specs: Sequence[Spec]) -> None:
    """Write `model`, which has no initializers, with those of `parts`.

    Args:
        specs: those of all parts in order, because the length of a message precedes it.
    """
    heads = {spec.name: _head(spec) for spec in specs}
    first, last = _around(model, heads, specs)
    with Path(path).open("wb") as file:
        file.write(first)
        for part in parts:
            for spec, array in zip(part.specs, part.make(), strict=True):
                if array.shape != spec.shape or array.dtype != spec.dtype:
                    raise ValueError(f"{spec.name}: {array.dtype} {array.shape} is not {spec.dtype} {spec.shape}")
                file.write(heads[spec.name])
                file.write(np.ascontiguousarray(array).data)
        file.write(last)


def size(model: ModelProto, specs: Sequence[Spec]) -> int:
    """How many bytes `write` will write."""
    heads = {spec.name: _head(spec) for spec in specs}
    return sum(map(len, _around(model, heads, specs))) + sum(len(heads[spec.name]) + spec.bytes for spec in specs)


def _around(model: ModelProto, heads: Mapping[str, bytes], specs: Sequence[Spec]) -> tuple[bytes, bytes]:
    """All of the file before and after the tensors."""
    graph = model.graph
    before = GraphProto(node=graph.node, name=graph.name).SerializeToString(deterministic=True)
    after = GraphProto(input=graph.input, output=graph.output).SerializeToString(deterministic=True)
    length = len(before) + len(after) + sum(len(heads[spec.name]) + spec.bytes for spec in specs)
    first = ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version
    )
    last = ModelProto(opset_import=model.opset_import, metadata_props=model.metadata_props)
    return (
        first.SerializeToString(deterministic=True) + protobuf.head(GRAPH, length) + before,
        after + last.SerializeToString(deterministic=True),
    )


def _head(spec: Spec) -> bytes:
    """All of an initializer that precedes its bytes."""
    kind = helper.np_dtype_to_tensor_dtype(spec.dtype)
    tensor = TensorProto(dims=spec.shape, data_type=kind, name=spec.name).SerializeToString()
    tensor += protobuf.head(RAW_DATA, spec.bytes)
    return protobuf.head(INITIALIZER, len(tensor) + spec.bytes) + tensor
