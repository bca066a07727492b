"""The graph of `edgekit convert --to onnx`: one KV buffer that every step writes into, with nothing else to copy.

Its interface is described in `converters/_onnx_fused.py`. All that a decode step reads or writes is bound in advance: a
step changes three integers, runs, and returns a copy of the logits. When the text outgrows the buffer, it is replaced
by one of twice the size.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgekit.errors import MissingExtraError, RuntimeFailure
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference.runtime import Logits, check_forward, check_rewind
from edgekit.runtimes._onnx_session import check_shape, interface, present, reason

PLAIN = ("input_ids", "logit_positions", "seqlens_k", "total_sequence_length")

INT8, INT8_SINCE = "tensor(int8)", (1, 27)

CHUNK = 512
"""Tokens of a prefill that run at once: what attention needs grows with their number times the context."""

INITIAL_BYTES, ALIGNMENT = 4 << 20, 64
"""Bytes of the KV cache at first, which double as it fills, and their alignment: a line of the CPU's caches."""


class FusedRuntime:
    """A session, its KV buffer and bindings. See `edgekit.inference.runtime.Runtime`."""

    def __init__(
        self, session: ort.InferenceSession, files: Mapping[str, bytes], config: LlamaConfig, path: Path
    ) -> None:
        """Raises `CheckpointError` if the graph is not the one that its configuration describes."""
        self.files = files
        self.vocab_size = config.vocab_size
        self.context_length = config.max_position_embeddings
        self.length = 0
        self._session = session
        names = interface(session, config, PLAIN, (), "a fused graph of edgekit's", path)
        nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        # ONNX Runtime's attention needs a head_dim that is a multiple of 16; the graph pads others.
        heads, wide = config.num_key_value_heads, -(-config.head_dim // 16) * 16
        for name in names:
            check_shape(nodes[name], (1, heads, None, wide), path, also=(INT8,))
        small = {name for name in names if nodes[name].type == INT8}
        if small and version(ort.__version__) < INT8_SINCE:
            raise MissingExtraError(
                f"{path} has an int8 KV cache, which needs onnxruntime {'.'.join(map(str, INT8_SINCE))}; this is "
                f"{ort.__version__}: pip install -U onnxruntime"
            )
        check_shape(nodes["logits"], (1, None, config.vocab_size), path)
        self._cache: dict[str, NDArray[np.generic]] = {
            name: np.zeros((1, heads, 0, wide), np.int8 if name in small else np.float32) for name in names
        }
        self._capacity = 0  # tokens
        self._last, self._total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self._id, self._logits = np.zeros((1, 1), np.int64), np.zeros((1, 1, self.vocab_size), np.float32)
        self._only = np.zeros(1, np.int64)
        self._grow(1)

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens; float32 logits, (vocab_size,) or (len(tokens), vocab_size). See `Runtime.forward`."""
        check_forward(self, tokens)
        count = len(tokens)
        if self.length + count > self._capacity:
            self._grow(self.length + count)
        if count == 1:
            self._id[0, 0] = tokens[0]
            self._run(self._step, self.length + 1)
            self.length += 1
            return self._logits[0].copy() if every else self._logits[0, 0].copy()
        ids = np.array([tokens], np.int64)
        # Written straight into the caller's array; without `every` each piece overwrites the one row.
        logits = np.empty((1, count if every else 1, self.vocab_size), np.float32)
        for start in range(0, count, CHUNK):
            part = ids[:, start : start + CHUNK]
            size = part.shape[1]
            positions = np.arange(size) if every else np.array([size - 1])
            _bind(self._many, part, positions, logits[:, start : start + size] if every else logits)
            self._run(self._many, self.length + start + size)
        self.length += count
        return logits[0] if every else logits[0, 0]

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens; later cache entries are never read. See `Runtime.rewind`."""
        check_rewind(self, length)
        self.length = length

    def close(self) -> None:
        """Nothing to do: the memory is freed with the last reference to this object."""

    def _grow(self, total: int) -> None:
        """Make the cache large enough for `total` tokens, keeping its content. Raises `RuntimeFailure` without memory.

        It is one block, since all of it is read at each step and adjacent rows take fewer pages.
        """
        each = sum(array.shape[1] * array.shape[3] * array.itemsize for array in self._cache.values())
        capacity = self._capacity or max(16, INITIAL_BYTES // each // 16 * 16)
        while capacity < total:
            capacity *= 2
        capacity = min(capacity, self.context_length)
        try:
            block = np.zeros(each * capacity + ALIGNMENT, np.uint8)
        except MemoryError as error:
            megabytes = each * capacity / 1e6
            raise RuntimeFailure(f"no memory for a KV cache of {capacity} tokens ({megabytes:.0f} MB)") from error
        at = -block.ctypes.data % ALIGNMENT
        grown: dict[str, NDArray[np.generic]] = {}
        for name, old in self._cache.items():
            size = old.shape[1] * capacity * old.shape[3] * old.itemsize
            grown[name] = block[at : at + size].view(old.dtype).reshape(1, old.shape[1], capacity, old.shape[3])
            grown[name][:, :, : self.length] = old[:, :, : self.length]
            at += size
        step, many = self._bound(grown), self._bound(grown)
        _bind(step, self._id, self._only, self._logits)
        # In one statement: a Ctrl-C must not leave a step bound to freed memory.
        self._capacity, self._cache, self._step, self._many = capacity, grown, step, many

    def _bound(self, cache: Mapping[str, NDArray[np.generic]]) -> ort.IOBinding:
        """A binding with the cache, as past and as present, and the two numbers for how much of it is in use."""
        binding = self._session.io_binding()
        for name, array in cache.items():
            value = ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(present(name), value)
        binding.bind_ortvalue_input("seqlens_k", ort.OrtValue.ortvalue_from_numpy(self._last))
        binding.bind_ortvalue_input("total_sequence_length", ort.OrtValue.ortvalue_from_numpy(self._total))
        return binding

    def _run(self, binding: ort.IOBinding, total: int) -> None:
        """Call ONNX Runtime; afterwards `total` tokens are in the cache."""
        self._last[0], self._total[()] = total - 1, total
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise RuntimeFailure(f"ONNX Runtime: {reason(error)}") from error


def version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _bind(
    binding: ort.IOBinding, ids: NDArray[np.int64], positions: NDArray[np.int64], logits: NDArray[np.float32]
) -> None:
    """Bind what changes between calls with many tokens. On the CPU an OrtValue is the array's own memory, and older
    versions of ONNX Runtime do not keep the array alive: the caller must."""
    value = ort.OrtValue.ortvalue_from_numpy
    binding.bind_ortvalue_input("input_ids", value(ids))
    binding.bind_ortvalue_input("logit_positions", value(positions))
    binding.bind_ortvalue_output("logits", value(logits))
