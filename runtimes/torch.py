"""PyTorch on the CPU: by default edgekit's own forward pass, on request transformers' model, the reference.

It opens what `edgekit.formats.open.open_model` reads: a Hugging Face folder, or a `.gguf`, dequantized. Both give the
same tokens at float32; `_torch_fast.py` is the forward pass, `_torch_reference.py` the reference.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from edgekit.errors import RuntimeFailure, SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.open import open_model
from edgekit.inference import context
from edgekit.inference.runtime import Logits, check_forward, check_rewind
from edgekit.inference.threads import choose_threads
from edgekit.runtimes._torch_fast import FastLlama
from edgekit.settings import Running
from edgekit.utils import registry

SUFFIX = ""
ALSO_OPENS = (".gguf",)

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of one weight."""


class Llama(Protocol):
    """A model and its cache, as `TorchRuntime` drives them."""

    def append(self, tokens: Sequence[int], start: int, every: bool) -> torch.Tensor:
        """Put tokens into the cache from `start` on; float32 logits, (vocab_size,) or (len(tokens), vocab_size)."""
        ...

    def holds(self, length: int) -> int:
        """How many of `length` tokens are still cached after a failed `append`."""
        ...


def load(path: Path, settings: Running) -> "TorchRuntime":
    """Open a model folder or a `.gguf`.

    PyTorch has one thread pool: `settings.threads` applies to the whole process, and the last loaded model sets it.

    Raises:
        FileError: a file cannot be read, or (`CheckpointError`) is damaged or not a Llama that edgekit supports.
        MissingExtraError: reading a `.gguf` needs the `gguf` extra, the reference transformers.
        SettingError: the reference in another dtype than float32.
        RuntimeFailure: not enough memory.
    """
    if settings.reference and settings.dtype != "float32":
        raise SettingError(f"the reference is float32: leave out --reference, or --dtype {settings.dtype}")
    checkpoint = open_model(path)
    length = context.length(checkpoint.config.max_position_embeddings, settings)
    checkpoint.config = dataclasses.replace(checkpoint.config, max_position_embeddings=length)
    weights = sum(tensor.size for _, tensor in checkpoint)
    threads = choose_threads(settings.threads, BYTES[settings.dtype] * weights)
    torch.set_num_threads(threads)
    try:
        llama: Llama
        if settings.reference:
            llama = registry.load("runtimes", "_torch_reference").ReferenceLlama(checkpoint)
        else:
            llama = FastLlama(checkpoint, settings.dtype, threads)
    except (RuntimeError, MemoryError) as error:
        raise failure(error) from error
    return TorchRuntime(checkpoint, llama)


def failure(error: Exception) -> RuntimeFailure:
    """PyTorch's message in one line."""
    return RuntimeFailure(f"PyTorch: {(str(error).splitlines() or [type(error).__name__])[0]}")


class TorchRuntime:
    """A Llama in PyTorch. See `edgekit.inference.runtime.Runtime`."""

    def __init__(self, checkpoint: Checkpoint, llama: Llama) -> None:
        self.vocab_size = checkpoint.config.vocab_size
        self.context_length = checkpoint.config.max_position_embeddings
        self.length = 0
        self.files = checkpoint.files
        self.llama = llama

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens; float32 logits, (vocab_size,) or (len(tokens), vocab_size). See `Runtime.forward`.

        If PyTorch itself fails (out of memory), nothing is appended; the cache of the reference is then empty.
        """
        check_forward(self, tokens)
        with torch.inference_mode():
            try:
                logits = self.llama.append([int(token) for token in tokens], self.length, every)
            except (RuntimeError, MemoryError) as error:
                self.length = self.llama.holds(self.length)
                raise failure(error) from error
        self.length += len(tokens)
        return logits.numpy()

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens. See `Runtime.rewind`."""
        check_rewind(self, length)
        self.length = length

    def close(self) -> None:
        """Nothing to do: the memory is freed with the last reference to this object."""
