"""An ONNX file read back: its tensors, from both graphs that edgekit writes, to compare them with the source's.

An initializer has its tensor's Hugging Face name; the node that uses it (a product or a gather, and on which axis)
tells its layout. Reading by the node and not by the name alone finds a matrix that was stored transposed by mistake.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.conversion.base import ArtefactTensor
from edgekit.converters._onnx_blocks import dequantize
from edgekit.converters._onnx_names import EMBEDDING, HEAD, QUANTIZED, SCALE, ZERO_POINT, weight_of
from edgekit.errors import CheckpointError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.utils.files import read_bytes
from edgekit.utils.guard import reading

PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "MatMulInteger", "MatMulNBits")
GATHERS = ("Gather", "GatherBlockQuantized")
KINDS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class Read(NamedTuple):
    """A weight as (out, in), or a vector."""

    values: NDArray[np.float32]
    kind: str


class OnnxArtefact(NamedTuple):
    """A parsed file, and where it came from."""

    path: Path
    model: ModelProto


def open_artefact(path: Path) -> OnnxArtefact:
    """Parse a file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: not an ONNX model, or a damaged one.
    """
    model = ModelProto()
    try:
        model.ParseFromString(read_bytes(path))
    except (DecodeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole ONNX file: {str(error).splitlines()[0]}") from error
    if not model.graph.node or not model.opset_import:
        raise CheckpointError(f"{path} is not an ONNX model: it has no graph")
    return OnnxArtefact(path, model)


def weights(artefact: Path | OnnxArtefact) -> Iterator[ArtefactTensor]:
    """Every tensor that can be identified, dequantized, in Hugging Face's order of names.

    None of a file without an embedded config.json, which tells the shapes: other programs wrote it.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: not an ONNX model, or a damaged one.
    """
    path, model = artefact if isinstance(artefact, OnnxArtefact) else open_artefact(artefact)
    with reading(path):
        yield from _weights(path, model)


def _weights(path: Path, model: ModelProto) -> Iterator[ArtefactTensor]:
    files = embedded.files_in_texts({p.key: p.value for p in model.metadata_props}, path)
    if "config.json" not in files:
        return
    config = LlamaConfig.from_dict(json.loads(files["config.json"]), f"{path}: config.json")
    tensors: dict[str, Read] = {}
    for name, read in _Graph(model.graph, config).weights():
        tensors.setdefault(name, read)
    for name in config.shapes():
        if name in tensors:
            yield ArtefactTensor(name, *tensors[name])


class _Graph:
    def __init__(self, graph: GraphProto, config: LlamaConfig) -> None:
        self.nodes, self.config, self.shapes = graph.node, config, config.shapes()
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        # Float16 that is cast to float32 when the file is loaded.
        self.casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
        cache = next((i for i in graph.input if i.name == "past_key_values.0.key"), None)
        width = cache.type.tensor_type.shape.dim[-1].dim_value if cache is not None else 0
        self.padded = width or config.head_dim

    def weights(self) -> Iterator[tuple[str, Read]]:
        """Weights by Hugging Face's names; a tied one once for each use."""
        for node in self.nodes:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            place = 0 if node.op_type in GATHERS else 1
            if node.op_type not in PRODUCTS + GATHERS or len(node.input) <= place:
                continue
            initializer = self.casts.get(node.input[place], node.input[place])
            name = weight_of(initializer)
            if initializer not in self.tensors or not name.endswith(".weight"):
                continue
            read = self.matrix(node, initializer, attributes)
            if name == EMBEDDING and node.op_type in PRODUCTS and not self.config.tie_word_embeddings:
                name = HEAD  # not in edgekit's own graphs: tied in the graph, but not in the configuration
            yield from self.parts(name, read)
        for name, tensor in self.tensors.items():
            if len(self.shapes.get(name, ())) == 1:
                yield name, Read(_array(tensor).astype(np.float32), _kind(tensor))
            elif name.endswith(("qkv_proj.bias", "gate_up_proj.bias")):
                column = Read(_array(tensor).astype(np.float32)[:, None], _kind(tensor))
                for part, read in self.parts(name, column):
                    yield part, Read(read.values[:, 0], read.kind)

    def matrix(self, node: NodeProto, name: str, attributes: dict[str, Any]) -> Read:
        values = _array(self.tensors[name])
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            bits, size = attributes["bits"], attributes["block_size"]
            scales = _array(self.tensors[weight_of(name) + SCALE]).reshape(values.shape[:2])
            width = attributes.get("K", self.config.hidden_size)
            if (
                bits not in (4, 8)
                or values.dtype != np.uint8
                or values.ndim != 3
                or values.shape[-1] * 8 != bits * size
            ):
                raise CheckpointError(f"{name} is not a matrix in blocks of {size} with {bits} bits")
            return Read(dequantize(values, scales.astype(np.float32), bits, width), f"int{bits}/{size}")
        kind = _kind(self.tensors[name])
        if name.endswith(QUANTIZED):
            values = self.scaled(weight_of(name), values)
        by_output = attributes.get("transB", 0) if node.op_type in PRODUCTS else attributes.get("axis", 0) == 0
        values = values.astype(np.float32)
        return Read(values if by_output else np.ascontiguousarray(values.T), kind)

    def scaled(self, name: str, values: NDArray) -> NDArray[np.float32]:
        """Plain int8: a scale for each column of a matrix in a product, for each row of a table that is looked up."""
        scale = _array(self.tensors[name + SCALE])
        levels = values.astype(np.float32)
        if name + ZERO_POINT in self.tensors:
            levels -= _array(self.tensors[name + ZERO_POINT]).astype(np.float32)
        return levels * (scale if scale.size == values.shape[-1] else scale[:, None])

    def parts(self, name: str, read: Read) -> Iterator[tuple[str, Read]]:
        """A packed matrix's parts by their own names, without the zeros that pad its heads."""
        config, values = self.config, read.values
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        if "qkv_proj." in name:
            counts = {"q": heads, "k": groups, "v": groups}
            for kind, count in counts.items():
                rows, values = values[: count * self.padded], values[count * self.padded :]
                rows = self.unpadded(rows, count, 1 if kind == "v" else 2)
                yield name.replace("qkv_proj", f"{kind}_proj"), Read(rows, read.kind)
        elif "gate_up_proj." in name:
            for kind, part in zip(("gate", "up"), np.split(values, 2), strict=True):
                yield name.replace("gate_up_proj", f"{kind}_proj"), Read(part, read.kind)
        elif name.endswith("o_proj.weight") and values.shape[1] == heads * self.padded:
            yield name, Read(np.ascontiguousarray(self.unpadded(values.T, heads, 1).T), read.kind)
        elif name in self.shapes:
            yield name, read

    def unpadded(self, rows: NDArray[np.float32], heads: int, pieces: int) -> NDArray[np.float32]:
        """Rows (heads * padded, width) without the padding of each of a head's `pieces`."""
        dim, wide = self.config.head_dim, self.padded
        if dim == wide or len(rows) != heads * wide:
            return rows
        return rows.reshape(heads, pieces, wide // pieces, -1)[:, :, : dim // pieces].reshape(heads * dim, -1)


def _array(tensor: TensorProto) -> NDArray:
    """A tensor's values. onnx would look for those in another file in the current folder."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise CheckpointError(
            f"tensor {tensor.name} is in another file: edgekit reads back what is in the .onnx itself"
        )
    return numpy_helper.to_array(tensor)


def _kind(tensor: TensorProto) -> str:
    name = str(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return KINDS.get(name, name)
