"""ONNX: one `.onnx` file with the weights, the tokenizer and the configuration inside.

The graph is the one that Hugging Face optimum exports for text-generation-with-past, in operators of the ONNX standard
(for int8 with ONNX Runtime's own quantization), so any ONNX runtime runs it. What is done to it afterwards, and why,
stands in `_onnx_graph.py`. Making a file needs torch and optimum; `describe` does not.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from edgekit import __version__, artefact, rooms
from edgekit.checkpoint import Checkpoint
from edgekit.convert import Progress, Written
from edgekit.converters import _onnx_graph
from edgekit.errors import CheckpointError, SettingError
from edgekit.files import read_bytes
from edgekit.settings import Converting

SUFFIX = ".onnx"
QUANTS = ("fp32", "int8")
DEFAULT = "int8"

# A protobuf message ends at 2 GiB; what is left is for the graph and the files inside.
LIMIT = 2**31 - 2**26

# Element types by the names that `--quant` has for them; others are called as ONNX calls them, in lower case.
TYPES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}


def convert(checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress) -> list[Written]:
    """Write one `.onnx` and return a row for each of its tensors, as `describe` does.

    Args:
        settings: `quant` is `fp32` or `int8`; `reduce_range` takes 7 bits for int8 weights, for x86 without VNNI.

    Raises:
        SettingError: a quantization that is not in `QUANTS`, or a setting that means nothing here.
        CheckpointError: more weights than one file holds.
        MissingExtraError: torch or optimum is not installed.
        RuntimeFailure: the exporter failed.
    """
    quant, config = _checked(checkpoint, settings), checkpoint.config
    exporter = rooms.load("converters", "_optimum")

    def stages() -> Iterator[None]:
        exporter.export(checkpoint, out)
        model = onnx.load(out)
        yield
        _onnx_graph.fold_transposes(model, config)
        model = _onnx_graph.simplify(model)
        yield
        if quant == "int8":
            model = _onnx_graph.quantize(model, reduce_range=settings.reduce_range)
        _onnx_graph.tidy(model, config)
        model.producer_name, model.producer_version = "edgekit", __version__
        texts, blobs = artefact.pack(checkpoint.files, source_sha256=checkpoint.sha256, quant=quant)
        carried = {key: artefact.to_text(data) for key, data in blobs.items()}
        helper.set_model_props(model, {"edgekit.graph": "portable"} | texts | carried)
        onnx.checker.check_model(model)
        out.write_bytes(model.SerializeToString(deterministic=True))
        yield

    with exporter.quiet():
        for _ in progress(stages(), "export, simplify, write", 3):
            pass
    return describe(out)[1]


def _checked(checkpoint: Checkpoint, settings: Converting) -> str:
    """The quantization; raises as `convert` says, before anything is written."""
    quant = (settings.quant or DEFAULT).lower()
    if quant not in QUANTS:
        raise SettingError(f"unknown quantization {quant!r} for onnx: choose from {', '.join(QUANTS)}")
    if settings.embedding_type is not None:
        raise SettingError("embedding_type is a setting of gguf: in onnx the embedding goes with quant")
    if settings.reduce_range and quant != "int8":
        raise SettingError(f"reduce_range is a setting of int8, not of {quant}")
    size = 4 * sum(int(np.prod(shape)) for shape in checkpoint.config.shapes().values())
    if size > LIMIT:
        raise CheckpointError(f"{checkpoint.name}: {size / 1e9:.1f} GB in float32, but one .onnx file holds 2 GB")
    return quant


def describe(path: Path) -> tuple[dict[str, str], list[Written], dict[str, int]]:
    """An `.onnx` file's metadata, its tensors, and how many nodes of each operator it has, most frequent first.

    Weights have their Hugging Face name, the shape that is stored (most are transposed) and the bytes of all that
    belongs to them, scales included. What the graph needs besides (axes, shapes, constants) is one row at the end.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: it is no ONNX model, or a damaged one.
    """
    data = read_bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole ONNX file: {str(error).splitlines()[0]}") from error
    if not model.graph.node or not model.opset_import:
        raise CheckpointError(f"{path} is not an ONNX model: it has no graph")
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    operators = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node)
    return metadata, _rows(model), dict(operators.most_common())


def _rows(model: onnx.ModelProto) -> list[Written]:
    weights: dict[str, Written] = {}
    constants = constants_bytes = 0
    for tensor in model.graph.initializer:
        name, size = _onnx_graph.weight_of(tensor.name), _bytes(tensor)
        if not name.endswith(".weight") and len(tensor.dims) != 2:
            constants, constants_bytes = constants + 1, constants_bytes + size
            continue
        size += weights[name].bytes if name in weights else 0
        if name in weights and tensor.name != name + _onnx_graph.QUANTIZED:
            weights[name] = replace(weights[name], bytes=size)  # a scale or zero points
        else:
            weights[name] = Written(name, tuple(tensor.dims), _type(tensor), size)
    rows = list(weights.values())
    if constants:
        rows.append(Written("(constants of the graph)", (constants,), "mixed", constants_bytes))
    return rows


def _type(tensor: TensorProto) -> str:
    try:
        name = TensorProto.DataType.Name(tensor.data_type)
    except ValueError:
        return f"type {tensor.data_type}"
    return TYPES.get(name, name.lower())


def _bytes(tensor: TensorProto) -> int:
    """Size of the elements as stored; for those in a file beside, as the tensor says."""
    if tensor.data_location == TensorProto.EXTERNAL:
        length = next((entry.value for entry in tensor.external_data if entry.key == "length"), "")
        return int(length) if length.isdecimal() else 0
    return len(tensor.raw_data) or tensor.ByteSize()
