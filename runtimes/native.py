"""edgekit's own engine, in C: GGUF files and model folders, with no package beyond edgekit's.

Its logits have the same bits on every processor, with any number of threads, prefilled or step by step
(docs/arithmetic.md). It runs `llama` models of the types that `engine/README.md` lists; where it refuses a GGUF,
`edgekit.load` goes on to llama.cpp.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import weakref
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import CheckpointError, RuntimeFailure, UnsupportedError, VocabularyError
from edgekit.formats.folder import read_folder
from edgekit.formats.generation_config import from_gguf
from edgekit.formats.gguf import NUMBER, GGUFFile
from edgekit.formats.gguf_config import llama_config
from edgekit.formats.safetensors import WIDTH, Entry
from edgekit.inference import context
from edgekit.inference.engine_sampler import EngineSampler
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.inference.threads import choose_threads
from edgekit.runtimes import _native_library as c
from edgekit.runtimes._native_image import image
from edgekit.settings import Running
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files
from edgekit.utils.engine import address, block
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.inference.runtime import Logits

SUFFIX = ".gguf"
ALSO_OPENS = ("",)

MOST_THREADS = 8
"""More are not faster for models of this size."""

_engine = c.engine()


def load(path: Path, settings: Running) -> NativeRuntime:
    """Open a `.gguf` or, as it is, a model folder: one of float32 or bfloat16 weights has a float32 cache by default.

    Raises:
        FileError: the file cannot be read, or (`CheckpointError`) is damaged or not a Llama that edgekit supports.
        UnsupportedError: a type or feature that the engine does not have; the message names it.
        RuntimeFailure: not enough memory.
    """
    if path.is_file():
        return load_gguf(GGUFFile(path), settings)
    folder = read_folder(path, _same)
    files = {"config.json": json.dumps(folder.config.to_dict()).encode()} | folder.files

    def finite(entry: Entry, data: memoryview) -> None:
        if not _engine.ek_all_finite(NUMBER[entry.dtype], address(data), len(data) // WIDTH[entry.dtype]):
            raise CheckpointError(f"{folder.name}: tensor {entry.name} has values that are NaN or infinite")

    data = image(folder, finite, float32=settings.kv_type == "f32")  # which asks for an exact comparison
    if settings.kv_type == "f16" and all(entry.dtype != "F16" for entry in folder.entries.values()):
        settings = dataclasses.replace(settings, kv_type="f32")  # a folder runs as it is: nothing is rounded
    return NativeRuntime(data, files, path, settings)


def load_gguf(file: GGUFFile, settings: Running) -> NativeRuntime:
    """As `load`, of a file that edgekit has open already."""
    config = llama_config(file)
    files = file.files()
    if not files and (sampling := from_gguf(file.metadata)):
        files["generation_config.json"] = json.dumps(sampling).encode()
    runtime = NativeRuntime(file.map, files, file.path, settings)
    if runtime.vocab_size != config.vocab_size:
        raise RuntimeFailure(f"{file.path}: the engine reads {runtime.vocab_size} tokens, not {config.vocab_size}")
    runtime.file = file
    return runtime


class NativeRuntime:
    """See `edgekit.inference.runtime.Runtime`. Also an `OwnsTokenizer`.

    Args:
        data: the bytes of a GGUF file, in an object with the buffer protocol.
        files: the model's other files.
        where: for messages.
    """

    def __init__(self, data: Any, files: dict[str, bytes], where: Path, settings: Running):
        self.files, self.length = files, 0
        self.file: GGUFFile | None = None
        self._data, self._where, error, info = data, where, c.Error(), c.Info()
        start, size = address(data), len(data)
        c.check(_engine.ek_inspect(start, size, c.byref(info), c.byref(error)), error, where)
        count = min(choose_threads(settings.threads, info.step_bytes), MOST_THREADS)
        self._threads = Threads(count) if count > 1 else None
        threads = None if self._threads is None else self._threads.address
        length = context.length(info.context, settings)
        options = c.Options(kv=c.KV_TYPES[settings.kv_type], threads=threads, context=length)
        needed = c.c_size_t()
        status = _engine.ek_model_size(start, size, c.byref(options), c.byref(needed), c.byref(error))
        c.check(status, error, where)
        context.check(where, length, needed.value, size)
        try:
            self._memory: Any = block(needed.value)
        except RuntimeFailure as failed:
            raise RuntimeFailure(f"{where}: {failed}") from failed
        model, memory = c.c_void_p(), address(self._memory)
        status = _engine.ek_model_open(start, size, c.byref(options), memory, needed, c.byref(model), c.byref(error))
        c.check(status, error, where)
        self._model = model.value
        self.vocab_size, self.context_length = info.vocabulary, length
        self._token = (c.c_uint32 * 1)()
        self._token_address = ctypes.addressof(self._token)
        self._logits = (c.c_float * self.vocab_size)()  # of `choose`
        self._logits_address = ctypes.addressof(self._logits)

    @property
    def instructions(self) -> str:
        """The instruction set that the engine chose, such as `avx512vnni`."""
        return _engine.ek_model_instructions(self._opened()).decode()

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        if len(tokens) == 1 and 0 <= tokens[0] < self.vocab_size and self.length < self.context_length:
            self._token[0] = tokens[0]
            logits = np.empty(self.vocab_size, np.float32)
            self._run(self._token_address, 1, logits.ctypes.data, False)
            return logits[None] if every else logits
        check_forward(self, tokens)
        ids = np.array(tokens, np.uint32)
        logits = np.empty((len(ids), self.vocab_size) if every else self.vocab_size, np.float32)
        self._run(ids.ctypes.data, len(ids), logits.ctypes.data, every)
        return logits

    def _run(self, tokens: int, count: int, logits: int, every: bool) -> None:
        if status := _engine.ek_forward(self._opened(), tokens, count, logits, every):
            raise RuntimeFailure(f"{self._where}: the engine failed on {count} tokens at {self.length}: {status}")
        self.length += count

    def prefill(self, tokens: Sequence[int], sampler: EngineSampler, allowed: NDArray[np.bool_] | None) -> int:
        """See `edgekit.inference.engine_sampler.ChoosesTokens`."""
        check_forward(self, tokens)
        ids = (c.c_uint32 * len(tokens))(*tokens)
        self._run(ctypes.addressof(ids), len(tokens), self._logits_address, False)
        return sampler.choose_at(self._logits_address, allowed)

    def step(self, token: int, sampler: EngineSampler, allowed: NDArray[np.bool_] | None) -> int:
        """See `edgekit.inference.engine_sampler.ChoosesTokens`."""
        model = self._opened()
        if not 0 <= token < self.vocab_size or self.length >= self.context_length:
            check_forward(self, [token])
        self.length += 1
        return sampler.step_of(model, token, self._logits_address, allowed)

    def _opened(self) -> int:
        """The engine's model. After `close` it would read freed memory: raises `RuntimeFailure`."""
        if self._model is None:
            raise RuntimeFailure("the model is closed")
        return self._model

    def rewind(self, length: int) -> None:
        model = self._opened()
        check_rewind(self, length)
        _engine.ek_rewind(model, length)
        self.length = length

    def own_tokenizer(self) -> Tokenizer:
        """The tokenizer in llama.cpp's keys, for a file that edgekit did not write. See `OwnsTokenizer`.

        Raises:
            VocabularyError: a model folder, whose tokenizer is in its files, or a closed runtime.
            UnsupportedError: a kind that only llama.cpp has.
        """
        if self.file is None:
            raise VocabularyError(
                f"{self._where} has no tokenizer: put tokenizer.json, or tokenizer_config.json and a .vocab, next to "
                "the weights"
            )
        from edgekit.tokenizers.native import NativeTokenizer

        try:
            return NativeTokenizer(_engine, self.file, self.vocab_size)
        except UnsupportedError:
            pass
        from edgekit.tokenizers.llamacpp import rebuild  # here: it imports the tokenizers package

        config = llama_config(self.file)
        files, difference = rebuild.files(self.file, config)
        if difference:
            raise UnsupportedError(f"{self._where}: {difference}")
        self.files = files | {"config.json": json.dumps(config.to_dict()).encode()} | self.files
        return from_files(self.files, config.vocab_size)

    def close(self) -> None:
        """Free the memory now. See `Runtime.close`."""
        self._model = None
        self._memory = self._data = None
        if self._threads is not None:
            self._threads.close()
        self.file = None


class Threads:
    """Threads that the engine uses besides the caller's; they sleep between calls.

    Args:
        count: with the caller's.
    """

    def __init__(self, count: int):
        size = _engine.ek_threads_size(count)
        memory = block(size)
        opened, error = c.c_void_p(), c.Error()
        status = _engine.ek_threads_open(count, address(memory), size, c.byref(opened), c.byref(error))
        c.check(status, error, f"{count} threads")
        self.address = opened.value or 0
        # Also when this object is collected; the argument keeps the block of memory until the threads have ended.
        self.close = weakref.finalize(self, _close, self.address, memory)


def _close(address: int, memory: mmap) -> None:
    _engine.ek_threads_close(address)


def _same(a: Entry, b: Entry) -> bool:
    """Whether two tensors have the same values, also in other types."""
    if a is b or (a.dtype == b.dtype and a.read() == b.read()):
        return True
    from edgekit.formats.checkpoint import array  # numpy

    return np.array_equal(array(a), array(b))
