"""What both graphs need from ONNX Runtime: a session, checks of the graph's interface, errors in one line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference.threads import choose_threads
from edgekit.settings import Running
from edgekit.utils.files import open_regular


def session(path: Path, settings: Running) -> ort.InferenceSession:
    """Open an `.onnx` file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: ONNX Runtime refuses it.
    """
    with open_regular(path) as file:  # ONNX Runtime reports NO_SUCHFILE for every reason, and waits for a pipe
        size = file.seek(0, 2)
    try:
        chosen = options(choose_threads(settings.threads, size))
        return ort.InferenceSession(_readable(path), chosen, ["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {reason(error)}") from error


def _readable(path: Path) -> Path | bytes:
    """A path that ONNX Runtime accepts; the file itself if its name is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return path


def options(threads: int) -> ort.SessionOptions:
    """The options of every session; measured with a 12.3M model on two cores."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    # A portable graph decodes a third faster with it and starts 50 ms later. A fused graph takes the same time at
    # every level, to start and to decode: there is nothing left to fuse.
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Without VNNI, x86 adds two products of uint8 and int8 in an int16, which overflows: other tokens on such a
    # processor (microsoft/onnxruntime#6004). Nothing changes where there is VNNI.
    chosen.add_session_config_entry("session.x64quantprecision", "1")
    # A memory plan is kept for each shape of the inputs, and here no two steps have the same shapes.
    chosen.enable_mem_pattern = False
    chosen.log_severity_level = 4  # every error is raised as an exception too
    return chosen


def reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its prefix `[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : `."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", lines[0])


def interface(
    opened: ort.InferenceSession,
    shape: LlamaConfig,
    plain: Sequence[str],
    optional: Sequence[str],
    kind: str,
    path: Path,
) -> list[str]:
    """The names of the cache's inputs, key and value of each layer in turn; the graph has their outputs too.

    Args:
        plain: the other inputs that the graph must have.
        optional: inputs that it may have.
        kind: what such a graph is called, for messages.

    Raises:
        CheckpointError: an input or output is missing, or an input is unknown.
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
        is_cache = name.startswith("past_key_values.")
        why = f"config.json has {shape.num_hidden_layers} layers" if is_cache else "edgekit has nothing to feed it"
        raise CheckpointError(f"{path}: unexpected input {name}: {why}")
    return names


def present(name: str) -> str:
    """The output of a cache's input."""
    return name.replace("past_key_values", "present")


def check_shape(node: Any, expected: Sequence[int | None], path: Path, also: Sequence[str] = ()) -> None:
    """Check an input's or output's shape against the configuration; sizes that the graph leaves open pass.

    Its elements must be float32, or of a type in `also`. Raises `CheckpointError`.
    """
    if node.type not in ("tensor(float)", *also):
        raise CheckpointError(f"{path}: {node.name} is {node.type}; edgekit runs graphs with float32 here")
    fits = len(node.shape) == len(expected) and all(
        size is None or not isinstance(actual, int) or actual == size
        for actual, size in zip(node.shape, expected, strict=False)
    )
    if not fits:
        raise CheckpointError(f"{path}: {node.name} has shape {list(node.shape)}, config.json wants {list(expected)}")
