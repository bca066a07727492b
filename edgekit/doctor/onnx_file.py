"""An ONNX file as the doctor sees it, parsed by the package `onnx`; data in other files is not loaded."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.doctor.tensors import LFS, WIDTH, Tensor
from edgekit.errors import CheckpointError, MissingExtraError
from edgekit.utils import registry
from edgekit.utils.files import read_bytes

# onnx.proto, TensorProto.DataType -> safetensors' names, which the doctor uses for all formats.
TYPES = {1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64",
         16: "BF16"}  # fmt: skip
EXTERNAL = 1  # TensorProto.DataLocation


@dataclass
class OnnxFile:
    """`tensors` are the initializers of the main graph; `external` names the files that hold some of them."""

    ir_version: int = 0
    producer: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    elements: dict[str, str] = field(default_factory=dict)
    """Input or output -> type of its elements, as of a tensor; "" if the file does not tell."""
    nodes: Counter[str] = field(default_factory=Counter)
    """How many of each operator, as `com.microsoft.MatMulNBits`."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    """Initializer -> file name."""


def read(path: Path) -> OnnxFile:
    """Parse a file.

    Raises:
        FileError: the system cannot open it.
        CheckpointError: not an ONNX model, or cut off.
        MissingExtraError: the package `onnx` is not installed.
    """
    try:
        import onnx  # here: only this format needs it
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        command = registry.install_command("onnx")
        raise MissingExtraError(f"{path.name} needs {error.name}, which is not installed: {command}") from error
    data = read_bytes(path)
    if data.startswith(LFS):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the model")
    try:
        contents = _contents(onnx.load_model_from_string(data))  # this loads no external data
    except (DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole ONNX file: it is cut off or damaged") from error
    if not contents.nodes or not contents.opsets:
        raise CheckpointError(f"{path} is not an ONNX model: it has no graph")
    return contents


def _contents(model: Any) -> OnnxFile:
    """The parts of a ModelProto. Raises `UnicodeDecodeError` if one of its texts is not UTF-8."""
    graph = model.graph
    return OnnxFile(
        ir_version=model.ir_version,
        producer=_text(model.producer_name),
        metadata={_text(entry.key): _text(entry.value) for entry in model.metadata_props},
        opsets={_text(opset.domain): opset.version for opset in model.opset_import},
        inputs=[_text(value.name) for value in graph.input],
        outputs=[_text(value.name) for value in graph.output],
        elements={
            _text(value.name): TYPES.get(value.type.tensor_type.elem_type, "")
            for value in (*graph.input, *graph.output)
        },
        nodes=Counter(_operator(_text(node.domain), _text(node.op_type)) for node in graph.node),
        tensors={_text(tensor.name): _tensor(tensor) for tensor in graph.initializer},
        external={
            _text(tensor.name): next((_text(e.value) for e in tensor.external_data if e.key == "location"), "")
            for tensor in graph.initializer
            if tensor.data_location == EXTERNAL
        },
    )


def _text(value: str | bytes) -> str:
    """A string field. protobuf returns bytes for one that is not UTF-8."""
    return value if isinstance(value, str) else value.decode()


def _operator(domain: str, name: str) -> str:
    return name if domain in ("", "ai.onnx") else f"{domain}.{name}"


def _tensor(tensor: Any) -> Tensor:
    """An initializer; without its bytes if they are in another file, or fewer or more than its shape needs."""
    kind = TYPES.get(tensor.data_type, f"type {tensor.data_type}")
    shape, raw = tuple(tensor.dims), _bytes(tensor)
    known = kind in WIDTH and raw is not None and raw.size == WIDTH[kind] * math.prod(shape)
    return Tensor(_text(tensor.name), shape, kind, raw if known else None)


def _bytes(tensor: Any) -> NDArray[np.uint8] | None:
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, np.uint8)
    if tensor.float_data:
        return np.array(tensor.float_data, "<f4").view(np.uint8)
    return None
