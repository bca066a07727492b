"""Graphs with the interface of Hugging Face optimum's text-generation-with-past.

`input_ids`, `attention_mask`, `position_ids` (int64, (1, n)) and `past_key_values.N.key|value` (float32, (1, kv_heads,
past, head_dim)) are inputs; `logits` (float32, (1, n, vocab_size)) and `present.N.key|value`, a new copy of the whole
cache at each step, are outputs. In graphs of other programs cache and logits may be float16, and there may be an input
`use_cache_branch`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgekit.errors import RuntimeFailure
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference.runtime import Logits, check_forward, check_rewind
from edgekit.runtimes._onnx_session import check_shape, interface, present, reason

HALF = ("tensor(float16)",)
"""Cache and logits may be float16: `model_fp16.onnx` in repositories for transformers.js."""
BRANCH = "use_cache_branch"
"""Optional input bool (1,) of optimum's merged decoders: whether there is a cache."""


class PortableRuntime:
    """A session and the KV cache, which stays in ONNX Runtime's own memory. See `edgekit.inference.runtime.Runtime`."""

    def __init__(
        self, session: ort.InferenceSession, files: Mapping[str, bytes], config: LlamaConfig, path: Path
    ) -> None:
        """Raises `CheckpointError` if the graph has another interface."""
        self.files = files
        self.vocab_size = config.vocab_size
        self.context_length = config.max_position_embeddings
        self.length = 0
        self._session = session
        kind = "an export of text-generation-with-past"
        self._names = interface(session, config, ("input_ids", "attention_mask"), ("position_ids", BRANCH), kind, path)
        self._shape = (1, config.num_key_value_heads, 0, config.head_dim)
        nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        for name in self._names:
            check_shape(nodes[name], (None, self._shape[1], None, self._shape[3]), path, also=HALF)
        check_shape(nodes["logits"], (None, None, config.vocab_size), path, also=HALF)
        self._element = np.float16 if nodes[self._names[0]].type in HALF else np.float32
        self._branches = BRANCH in nodes
        self._outputs = ["logits", *map(present, self._names)]
        self._positional = "position_ids" in nodes
        self._binding = session.io_binding()
        self._cache = self._empty()

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens; float32 logits, (vocab_size,) or (len(tokens), vocab_size). See `Runtime.forward`."""
        check_forward(self, tokens)
        end = self.length + len(tokens)
        binding, ids = self._binding, np.array([tokens], np.int64)
        mask, positions = np.ones((1, end), np.int64), np.arange(self.length, end, dtype=np.int64)[None]
        # The outputs of one step are inputs of the next: Python only passes handles.
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        if self._positional:
            binding.bind_cpu_input("position_ids", positions)
        if self._branches:
            binding.bind_cpu_input(BRANCH, np.array([self.length > 0]))
        for name, value in zip(self._names, self._cache, strict=True):
            binding.bind_ortvalue_input(name, value)
        # Bound again, or ONNX Runtime would write into the outputs of the last step, which are now its inputs.
        binding.clear_binding_outputs()
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise RuntimeFailure(f"ONNX Runtime: {reason(error)}") from error
        logits, *self._cache = binding.get_outputs()
        self.length = end
        view = logits.numpy()[0]  # of ONNX Runtime's memory
        return (view if every else view[-1]).astype(np.float32)

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens. See `Runtime.rewind`."""
        check_rewind(self, length)
        if length == 0:
            self._cache = self._empty()
        elif length < self.length:
            kept = (np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._cache)
            self._cache = [ort.OrtValue.ortvalue_from_numpy(array) for array in kept]
        self.length = length

    def close(self) -> None:
        """Nothing to do: the memory is freed with the last reference to this object."""

    def _empty(self) -> list[ort.OrtValue]:
        return [ort.OrtValue.ortvalue_from_numpy(np.zeros(self._shape, self._element)) for _ in self._names]
