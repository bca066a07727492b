"""The files that belong to an `.onnx` model, read without ONNX Runtime, the package `onnx` or the weights.

An ONNX file is one protobuf message, ModelProto (onnx/onnx.proto): the graph is field 7, each entry of the metadata a
field 14 with key 1 and value 2.
"""

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.protobuf import fields, message, text
from edgekit.utils.files import open_regular, os_reason, read_bytes

GRAPH, METADATA_PROPS, KEY, VALUE = 7, 14, 1, 2


def mapped(path: Path) -> memoryview:
    """The file's bytes, not read yet. Raises `FileError`."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error


def metadata(path: Path) -> dict[str, str]:
    """The model's `metadata_props`. The file is mapped, and of the graph nothing is read.

    Raises:
        FileError: the system cannot open the file.
        CheckpointError: not an ONNX model, or damaged.
    """
    data = mapped(path)
    entries: dict[str, str] = {}
    graph = False
    try:
        for number, value in fields(data):
            graph = graph or number == GRAPH
            if number == METADATA_PROPS:
                parts = {key: text(part) for key, part in fields(message(value))}
                entries[parts.get(KEY, "")] = parts.get(VALUE, "")
    except ValueError as error:
        raise CheckpointError(f"{path} is not a whole ONNX file: it is cut off or damaged") from error
    if not graph:
        raise CheckpointError(f"{path} is not an ONNX model: it has no graph")
    return entries


def files_of(entries: Mapping[str, str], path: Path) -> dict[str, bytes]:
    """The files embedded in a model's metadata; for a model of another program, those next to it.

    Of a file in a folder `onnx`, which has none, those in the folder above: the layout of transformers.js.

    Raises `CheckpointError` if an embedded one is damaged.
    """
    if any(key.startswith("edgekit.") for key in entries):
        return embedded.files_in_texts(entries, path)
    folder = path.absolute().parent
    if folder.name == "onnx" and not (folder / "config.json").is_file():
        folder = folder.parent
    return {name: read_bytes(folder / name) for name in embedded.CARRIED if (folder / name).is_file()}


def config_of(files: Mapping[str, bytes], path: Path) -> LlamaConfig:
    """The configuration, which has the length of the context. Raises `CheckpointError`."""
    where = f"config.json of {path}"
    if "config.json" not in files:
        raise CheckpointError(f"{path} has no config.json inside or next to it, which has the length of its context")
    try:
        values = json.loads(files["config.json"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    return LlamaConfig.from_dict(values, where)
