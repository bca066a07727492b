"""ONNX Runtime on the CPU, with nothing else imported: the runtime for small machines.

It runs graphs with the interface of Hugging Face optimum's `text-generation-with-past`: `input_ids`,
`attention_mask`, `position_ids` (int64, (1, n)) and `past_key_values.N.key|value` (float32, (1, kv_heads, past,
head_dim)) go in, `logits` (float32, (1, n, vocab_size)) and `present.N.key|value` come out. Such a file made by other
tools runs too if its `config.json` lies beside it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgekit import artefact
from edgekit.checkpoint import LlamaConfig
from edgekit.errors import CheckpointError, FileError, RuntimeFailure
from edgekit.files import read_bytes, said
from edgekit.runtime import Logits, check_forward, check_rewind, choose_threads
from edgekit.settings import Running

SUFFIX = ".onnx"

PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")


def load(path: Path, settings: Running) -> "OnnxRuntime":
    """Open an `.onnx` file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: it is no ONNX model, or not one with this interface; says what is missing.
    """
    path = Path(path)
    try:
        with path.open("rb"):
            pass  # ONNX Runtime says NO_SUCHFILE for every reason
    except OSError as error:
        raise FileError(f"cannot read {path}: {said(error)}") from error
    try:
        session = ort.InferenceSession(
            path, options(choose_threads(settings.threads, path.stat().st_size)), ["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common base of their own
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {reason(error)}") from error
    return OnnxRuntime(session, path)


def options(threads: int) -> ort.SessionOptions:
    """How sessions are set up; measured with a 12.3M model on two cores."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    # Fusing everything costs 50 ms at the start and decodes a third faster than the basic level.
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A memory plan is kept for each shape of the inputs, and here no two steps have the same.
    chosen.enable_mem_pattern = False
    chosen.log_severity_level = 4  # every error arrives as an exception as well: say it once
    return chosen


def reason(error: Exception) -> str:
    """What ONNX Runtime says, in one line without its prefix `[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : `."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", lines[0])


class OnnxRuntime:
    """A session and the KV cache, which stays in ONNX Runtime's own memory. See `edgekit.runtime.Runtime`."""

    def __init__(self, session: ort.InferenceSession, path: Path) -> None:
        self.files = carried(session, path)
        config = _config(self.files, path)
        self.vocab_size = config.vocab_size
        self.context_length = config.max_position_embeddings
        self.length = 0
        self._session = session
        self._names, self._shape = _interface(session, config, path)
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._names)]
        self._positional = any(node.name == "position_ids" for node in session.get_inputs())
        self._binding = session.io_binding()
        self._mask = np.ones((1, self.context_length), np.int64)
        self._positions = np.arange(self.context_length, dtype=np.int64)[None]
        self._cache = self._empty()

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens; float32 logits, (vocab_size,) or (len(tokens), vocab_size). See `Runtime.forward`."""
        check_forward(self, tokens)
        end = self.length + len(tokens)
        binding, ids = self._binding, np.array([tokens], np.int64)
        # What one step put out, the next takes in: the cache passes by Python as a list of handles.
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", self._mask[:, :end])
        if self._positional:
            binding.bind_cpu_input("position_ids", self._positions[:, self.length : end])
        for name, value in zip(self._names, self._cache, strict=True):
            binding.bind_ortvalue_input(name, value)
        # Bound anew, or ONNX Runtime would write into the outputs of the last step, which are now its inputs.
        binding.clear_binding_outputs()
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # as above
            raise RuntimeFailure(f"ONNX Runtime: {reason(error)}") from error
        logits, *self._cache = binding.get_outputs()
        self.length = end
        view = logits.numpy()[0]  # of memory that is ONNX Runtime's
        return view.copy() if every else view[-1].copy()

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens. See `Runtime.rewind`."""
        check_rewind(self, length)
        if length == 0:
            self._cache = self._empty()
        elif length < self.length:
            kept = (np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._cache)
            self._cache = [ort.OrtValue.ortvalue_from_numpy(array) for array in kept]
        self.length = length

    def _empty(self) -> list[ort.OrtValue]:
        return [ort.OrtValue.ortvalue_from_numpy(np.zeros(self._shape, np.float32)) for _ in self._names]


def carried(session: ort.InferenceSession, path: Path) -> dict[str, bytes]:
    """The files inside an artefact of edgekit's; for a file of other tools, those that lie beside it.

    Raises `CheckpointError` if one inside is damaged.
    """
    texts: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if any(key.startswith("edgekit.") for key in texts):
        return artefact.files_in_texts(texts, path)
    return {name: read_bytes(path.parent / name) for name in artefact.CARRIED if (path.parent / name).is_file()}


def _config(files: Mapping[str, bytes], path: Path) -> LlamaConfig:
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


def _interface(
    session: ort.InferenceSession, config: LlamaConfig, path: Path
) -> tuple[list[str], tuple[int, int, int, int]]:
    """The names of the cache's inputs and the shape of an empty one; raises `CheckpointError` if the graph differs."""
    inputs: dict[str, Any] = {node.name: node for node in session.get_inputs()}
    outputs: dict[str, Any] = {node.name: node for node in session.get_outputs()}
    names = [f"past_key_values.{i}.{kind}" for i in range(config.num_hidden_layers) for kind in ("key", "value")]
    for name in ("input_ids", "attention_mask", *names):
        if name not in inputs:
            raise CheckpointError(f"{path}: input {name} is missing: not an export of text-generation-with-past")
    for name in ("logits", *(name.replace("past_key_values", "present") for name in names)):
        if name not in outputs:
            raise CheckpointError(f"{path}: output {name} is missing: not an export of text-generation-with-past")
    for name in inputs:
        if name not in ("input_ids", "attention_mask", "position_ids", *names):
            known = PAST.fullmatch(name)
            why = f"config.json has {config.num_hidden_layers} layers" if known else "edgekit has nothing to feed it"
            raise CheckpointError(f"{path}: unexpected input {name}: {why}")
    shape = (1, config.num_key_value_heads, 0, config.head_dim)
    for name in names:
        if inputs[name].type != "tensor(float)":
            raise CheckpointError(f"{path}: {name} is {inputs[name].type}; edgekit runs graphs with a float32 cache")
        _same(inputs[name].shape, (None, shape[1], None, shape[3]), name, path)
    if outputs["logits"].type != "tensor(float)":
        raise CheckpointError(f"{path}: logits are {outputs['logits'].type}; edgekit reads float32")
    _same(outputs["logits"].shape, (None, None, config.vocab_size), "logits", path)
    return names, shape


def _same(found: Sequence[Any], wanted: Sequence[int | None], name: str, path: Path) -> None:
    """Hold a shape to the configuration; sizes that the graph leaves open (names, None) pass."""
    fits = len(found) == len(wanted) and all(
        w is None or not isinstance(f, int) or f == w for f, w in zip(found, wanted, strict=False)
    )
    if not fits:
        raise CheckpointError(f"{path}: {name} has shape {list(found)}, config.json wants {list(wanted)}")
