"""What both graphs need of ONNX Runtime: a session, the files inside the artefact, and its errors in one line."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference.threads import choose_threads
from edgekit.settings import Running
from edgekit.utils.files import os_reason, read_bytes


def session(path: Path, settings: Running) -> ort.InferenceSession:
    """Open an `.onnx` file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: ONNX Runtime refuses it.
    """
    try:
        with path.open("rb"):
            pass  # ONNX Runtime says NO_SUCHFILE for every reason
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error
    size = path.stat().st_size
    try:
        return ort.InferenceSession(path, options(choose_threads(settings.threads, size)), ["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {reason(error)}") from error


def options(threads: int) -> ort.SessionOptions:
    """How sessions are set up; measured with a 12.3M model on two cores."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    # A portable graph decodes a third faster for it and starts 50 ms later. On a fused one every level takes the same
    # time, to start and to decode: there is nothing left to fuse.
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A memory plan is kept for each shape of the inputs, and here no two steps have the same.
    chosen.enable_mem_pattern = False
    chosen.log_severity_level = 4  # every error arrives as an exception as well: say it once
    return chosen


def reason(error: Exception) -> str:
    """What ONNX Runtime says, in one line without its prefix `[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : `."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", lines[0])


def carried(opened: ort.InferenceSession, path: Path) -> dict[str, bytes]:
    """The files inside an artefact of edgekit's; for a file of other tools, those that lie beside it.

    Raises `CheckpointError` if one inside is damaged.
    """
    texts: dict[str, str] = opened.get_modelmeta().custom_metadata_map
    if any(key.startswith("edgekit.") for key in texts):
        return embedded.files_in_texts(texts, path)
    return {name: read_bytes(path.parent / name) for name in embedded.CARRIED if (path.parent / name).is_file()}


def config(files: Mapping[str, bytes], path: Path) -> LlamaConfig:
    """The configuration, which tells the length of the context. Raises `CheckpointError`."""
    where = f"config.json of {path}"
    if "config.json" not in files:
        raise CheckpointError(f"{path} has no config.json inside or beside it, which tells the length of its context")
    try:
        values = json.loads(files["config.json"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    return LlamaConfig.from_dict(values, where)


def interface(
    opened: ort.InferenceSession,
    shape: LlamaConfig,
    plain: Sequence[str],
    optional: Sequence[str],
    kind: str,
    path: Path,
) -> list[str]:
    """The names of the cache's inputs, key and value of each layer in turn; the outputs are there too.

    Args:
        plain: the other inputs that must be there.
        optional: those that may.
        kind: what such a graph is called.

    Raises:
        CheckpointError: an input or output is missing, or nothing is known of it.
    """
    inputs, outputs = ({node.name for node in nodes} for nodes in (opened.get_inputs(), opened.get_outputs()))
    names = [f"past_key_values.{i}.{part}" for i in range(shape.num_hidden_layers) for part in ("key", "value")]
    for name in (*plain, *names):
        if name not in inputs:
            raise CheckpointError(f"{path}: input {name} is missing: not {kind}")
    for name in ("logits", *map(present, names)):
        if name not in outputs:
            raise CheckpointError(f"{path}: output {name} is missing: not {kind}")
    for name in sorted(inputs - {*plain, *optional, *names}):
        known = name.startswith("past_key_values.")
        why = f"config.json has {shape.num_hidden_layers} layers" if known else "edgekit has nothing to feed it"
        raise CheckpointError(f"{path}: unexpected input {name}: {why}")
    return names


def present(name: str) -> str:
    """The output that belongs to a cache's input."""
    return name.replace("past_key_values", "present")


def same(node: Any, wanted: Sequence[int | None], path: Path, also: Sequence[str] = ()) -> None:
    """Hold an input's or output's shape to the configuration; sizes that the graph leaves open (names, None) pass.

    Its elements must be float32, or of a type in `also`.
    """
    if node.type not in ("tensor(float)", *also):
        raise CheckpointError(f"{path}: {node.name} is {node.type}; edgekit runs graphs with float32 here")
    fits = len(node.shape) == len(wanted) and all(
        w is None or not isinstance(f, int) or f == w for f, w in zip(node.shape, wanted, strict=False)
    )
    if not fits:
        raise CheckpointError(f"{path}: {node.name} has shape {list(node.shape)}, config.json wants {list(wanted)}")
