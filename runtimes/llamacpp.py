"""llama.cpp: a `.gguf` through llama-cpp-python's C bindings. No torch, no transformers.

The high-level `Llama` class, its sampler and loop stay unused: one batch is allocated once and filled through numpy
views, and the logits are read where llama.cpp leaves them. A decode step makes no Python object per token or logit.

llama.cpp aborts the whole process on some files. edgekit therefore reads the file first and refuses those, and opens
what remains doubtful in a process of its own (`_llamacpp_checks.py`).
"""

import ctypes
import json
import os
import re
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError, RuntimeFailure, SettingError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.generation_config import from_gguf
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.gguf_config import llama_config
from edgekit.inference import context
from edgekit.inference.runtime import Logits, check_forward, check_rewind
from edgekit.inference.threads import choose_threads
from edgekit.runtimes._llamacpp_checks import check_file, probe, trusted
from edgekit.runtimes._llamacpp_tokenizer import LlamaTokenizer, LlamaVocabulary, check_vocabulary
from edgekit.settings import Running
from edgekit.utils import lazy

llama: Any = lazy.load("llama_cpp", "llama_cpp")

SUFFIX = ".gguf"

KV_TYPES = {"f32": 0, "f16": 1}  # ggml.h, enum ggml_type

# Tokens that llama.cpp takes at once, and the most logits that it allocates for them: 4M floats are 16 MB.
LARGEST_BATCH, SMALLEST_BATCH, MOST_LOGITS = 512, 32, 1 << 22


def load(path: Path, settings: Running) -> "LlamaCppRuntime":
    """Open a `.gguf` file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: damaged, or not a Llama that edgekit supports.
        RuntimeFailure: llama.cpp refuses it; the message has llama.cpp's reason.
    """
    return load_gguf(GGUFFile(path), settings)


def load_gguf(file: GGUFFile, settings: Running) -> "LlamaCppRuntime":
    """As `load`, of a file that edgekit has open already."""
    return LlamaCppRuntime(file, settings)


def load_vocabulary(path: Path) -> LlamaVocabulary:
    """llama.cpp's own tokenizer of a file. See `edgekit.inference.runtime.LoadsVocabulary`."""
    file = GGUFFile(path)
    check_file(file)
    check_vocabulary(file)
    _capture_log()
    return LlamaVocabulary(_open_model(path, vocabulary_only=True), file)


class LlamaCppRuntime:
    """See `edgekit.inference.runtime.Runtime`. Also a `SetsThreads` and an `OwnsTokenizer`.

    A prefill in one call, in several, or token by token gives the same logits up to rounding (llama.cpp picks other
    kernels for other batch sizes): to 1e-5 with `kv_type` f32 and f32 weights.
    """

    def __init__(self, file: GGUFFile, settings: Running, *, probed: bool = False):
        self._free = lambda: None
        self._file, path = file, file.path
        config = llama_config(file)
        config = replace(config, max_position_embeddings=context.length(config.max_position_embeddings, settings))
        check_file(file)
        check_vocabulary(file)
        if not probed and not trusted(file):
            probe(file)
        self.files = file.files()
        if not self.files and (sampling := from_gguf(file.metadata)):
            self.files["generation_config.json"] = json.dumps(sampling).encode()
        self.vocab_size, self.context_length, self.length = config.vocab_size, config.max_position_embeddings, 0
        _capture_log()
        self._model = _open_model(path)
        try:
            vocab = llama.llama_model_get_vocab(self._model)
            if (rows := llama.llama_vocab_n_tokens(vocab)) != self.vocab_size:
                raise CheckpointError(f"{path}: {rows} tokens, but the embedding has {self.vocab_size} rows")
            opened = _open_context(path, self._model, config, settings)
        except BaseException:
            llama.llama_model_free(self._model)
            raise
        self._context = opened
        self._memory = llama.llama_get_memory(opened)
        self._size = llama.llama_n_batch(opened)
        self._batch = batch = llama.llama_batch_init(self._size, 0, 1)
        # Runs when the runtime is garbage collected, and at the interpreter's exit before the library is unloaded.
        self._free = weakref.finalize(self, _free, opened, self._model, batch)
        # What never changes is written here; a step writes one id, one position and one flag.
        self._tokens = np.ctypeslib.as_array(batch.token, (self._size,))
        self._positions = np.ctypeslib.as_array(batch.pos, (self._size,))
        self._output = np.ctypeslib.as_array(batch.logits, (self._size,))
        np.ctypeslib.as_array(batch.n_seq_id, (self._size,))[:] = 1
        for i in range(self._size):
            batch.seq_id[i][0] = 0
        # The bindings' `llama_get_logits` returns a pointer object, which costs more than the call; this an address.
        self._address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(("llama_get_logits", llama._lib))
        self._views: dict[tuple[int, int], Logits] = {}

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        if len(tokens) == 1 and 0 <= tokens[0] < self.vocab_size and self.length < self.context_length:
            return self._step(tokens[0], every)
        check_forward(self, tokens)
        before, count = self.length, len(tokens)
        logits = np.empty((count if every else 1, self.vocab_size), np.float32)
        try:
            for start in range(0, count, self._size):
                part = tokens[start : start + self._size]
                size = len(part)
                self._batch.n_tokens = size
                self._tokens[:size] = part
                self._positions[:size] = np.arange(self.length, self.length + size) if size > 1 else self.length
                self._output[:size] = every
                self._output[size - 1] = every or start + size == count
                self._run(size)
                if every:
                    logits[start : start + size] = self._logits(size)
                elif start + size == count:
                    logits[0] = self._logits(1)[0]
                self.length += size
        except BaseException:
            # All or nothing: drop what this call has appended.
            llama.llama_memory_seq_rm(self._memory, 0, before, -1)
            self.length = before
            raise
        return logits if every else logits[0]

    def _step(self, token: int, every: bool) -> Logits:
        """`forward` of one token that has been checked."""
        self._batch.n_tokens = 1
        self._tokens[0], self._positions[0], self._output[0] = token, self.length, True
        self._run(1)
        self.length += 1
        logits = self._logits(1)
        return logits.copy() if every else logits[0].copy()

    def rewind(self, length: int) -> None:
        check_rewind(self, length)
        if length < self.length and not llama.llama_memory_seq_rm(self._memory, 0, length, -1):
            raise RuntimeFailure(f"llama.cpp cannot keep {length} of {self.length} cached tokens")
        self.length = length

    def own_tokenizer(self) -> LlamaTokenizer:
        """llama.cpp's tokenizer, for files without embedded tokenizer files. See `OwnsTokenizer`."""
        return LlamaTokenizer(self, llama.llama_model_get_vocab(self._model), self._file)

    def close(self) -> None:
        """Free the memory now. See `Runtime.close`."""
        self._free()

    def set_threads(self, threads: int) -> None:
        """From the next call on. See `SetsThreads`."""
        llama.llama_set_n_threads(self._context, threads, threads)

    def _run(self, size: int) -> None:
        """Call llama.cpp with the first `size` tokens of the batch."""
        _errors.clear()
        if code := llama.llama_decode(self._context, self._batch):
            raise RuntimeFailure(f"llama.cpp failed on {size} tokens at {self.length}: {_reason() or f'code {code}'}")

    def _logits(self, rows: int) -> Logits:
        """llama.cpp's own output buffer, float32 (rows, vocab_size); valid until the next decode."""
        address = self._address(self._context)
        view = self._views.get((address, rows))
        if view is None:
            if not address:
                raise RuntimeFailure("llama.cpp returned no logits")
            # The buffer moves only when it grows, so a few views serve a whole run.
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
            view = self._views[address, rows] = np.ctypeslib.as_array(pointer, (rows, self.vocab_size))
        return view


def _open_model(path: Path, *, vocabulary_only: bool = False) -> int:
    params = llama.llama_model_default_params()  # maps the file, and may repack weights for faster kernels
    params.n_gpu_layers = 0
    params.vocab_only = vocabulary_only
    _errors.clear()
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise RuntimeFailure(f"llama.cpp cannot load {path}: {_reason() or 'it gives no reason'}")
    return model


def _open_context(path: Path, model: int, config: LlamaConfig, settings: Running) -> int:
    if settings.kv_type not in KV_TYPES:
        raise SettingError(f"kv_type {settings.kv_type} is for native: choose f16 or f32 for llamacpp")
    params = llama.llama_context_default_params()
    params.n_ctx = config.max_position_embeddings
    fitting = max(SMALLEST_BATCH, min(LARGEST_BATCH, MOST_LOGITS // config.vocab_size))
    params.n_batch = params.n_ubatch = min(fitting, config.max_position_embeddings)
    params.n_seq_max = 1
    params.n_threads = params.n_threads_batch = choose_threads(settings.threads, path.stat().st_size)
    params.type_k = params.type_v = KV_TYPES[settings.kv_type]
    # llama-cpp-python's default, so the logits are the same bits as its own. Beyond some 60 tokens a step is also
    # faster without flash attention: at 600 tokens of 12M parameters on one core 1.4 ms instead of 4.1; up to 60 it is
    # 15 % slower.
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.offload_kqv = params.op_offload = False
    params.no_perf = True
    row = config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    needed = 2 * config.max_position_embeddings * row * (2 if settings.kv_type == "f16" else 4)
    # llama.cpp would fill the memory, and the system kill the process.
    context.check(path, config.max_position_embeddings, needed, path.stat().st_size)
    _errors.clear()
    opened: int = llama.llama_init_from_model(model, params)
    if not opened:
        raise RuntimeFailure(f"llama.cpp cannot run {path}: {_reason() or 'it gives no reason'}")
    return opened


def _free(context: int, model: int, batch: Any) -> None:
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)


_errors: deque[str] = deque(maxlen=16)


@llama.llama_log_callback
def _on_log(level: int, text: bytes, _data: object) -> None:
    if level == 4:  # ggml.h, GGML_LOG_LEVEL_ERROR; the rest would only clutter the program's own output
        _errors.append(text.decode("utf-8", "replace").strip())


def _capture_log() -> None:
    """Silence llama.cpp's log, of which a process has one, and keep its error messages."""
    llama.llama_backend_init()
    llama.llama_log_set(_on_log, ctypes.c_void_p(0))


def _reason() -> str:
    """llama.cpp's first error message since the last call, without the names of its functions."""
    return re.sub(r"^(\w+: )+(error loading model: )?", "", _errors[0]) if _errors else ""
