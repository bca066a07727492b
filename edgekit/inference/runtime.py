"""The contract of a backend: append tokens and get logits, or drop tokens from the end.

A file `runtimes/NAME.py` is a runtime plugin if it satisfies `RuntimePlugin`, and optionally `LoadsGGUF` and
`LoadsVocabulary`. What `load` returns satisfies `Runtime`, and may satisfy the optional protocols `SetsThreads` and
`edgekit.tokenizers.base.OwnsTokenizer`, which are checked with `isinstance`. The backend's own sampler and generation
loop stay unused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgekit.errors import ContextError, RuntimeFailure, UnknownPluginError
from edgekit.settings import Running
from edgekit.utils import registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.formats.gguf import GGUFFile

    Logits = NDArray[np.float32]
else:

    def __getattr__(name: str) -> object:
        """`Logits`, without numpy for those who only need the protocols."""
        if name != "Logits":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from numpy import float32
        from numpy.typing import NDArray

        return NDArray[float32]


@runtime_checkable
class Runtime(Protocol):
    """One loaded model with a KV cache for one sequence."""

    vocab_size: int
    """Rows of the embedding: ids run from 0 to vocab_size - 1."""
    context_length: int
    """The most tokens that the cache holds."""
    length: int
    """Tokens now in the cache."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """The model's files other than weights, by Hugging Face's names: config.json, tokenizer.json, ..."""
        ...

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens and return float32 logits, an array that the caller owns.

        Shape (vocab_size,), for what follows the last token; or (len(tokens), vocab_size), after each of them,
        if `every`. Many tokens is a prefill, one is a decode step.

        Raises:
            ContextError: the cache would grow past `context_length`; nothing was appended.
            RuntimeFailure: no tokens, an id outside the vocabulary, or the backend failed.
        """
        ...

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens (0: drop all). Raises `RuntimeFailure` if there are fewer."""
        ...

    def close(self) -> None:
        """Free what the garbage collector would not free soon; may be called twice. Unusable afterwards."""
        ...


@runtime_checkable
class SetsThreads(Protocol):
    """Optional: a runtime whose number of threads can change while the model is open."""

    def set_threads(self, threads: int) -> None:
        """From the next call on."""
        ...


@runtime_checkable
class RuntimePlugin(Protocol):
    """A file of the plugin folder `runtimes`."""

    SUFFIX: str
    """The suffix of the artefacts it opens, ".onnx"; "" for a model folder. A literal: it is read without an import.

    A line `ALSO_OPENS = (".gguf",)` names more."""

    def load(self, path: Path, settings: Running, /) -> Runtime:
        """Open an artefact.

        Raises:
            FileError: it cannot be read, or (`CheckpointError`) is damaged or not a supported Llama.
            RuntimeFailure: the backend refuses it.
        """
        ...


def plugin(name: str) -> RuntimePlugin:
    """The runtime plugin of this name.

    Raises:
        UnknownPluginError: there is no such plugin, or the module lacks a member of `RuntimePlugin`.
        MissingExtraError: it needs a package that is not installed.
    """
    module = registry.load("runtimes", name)
    if not isinstance(module, RuntimePlugin):
        raise UnknownPluginError(f"runtimes/{name}.py is not a runtime: it needs SUFFIX and load")
    return module


def check_forward(runtime: Runtime, tokens: Sequence[int]) -> None:
    """The checks that every runtime makes before it appends; raises as `Runtime.forward`."""
    if len(tokens) == 0:
        raise RuntimeFailure("forward needs at least one token")
    if min(tokens) < 0 or max(tokens) >= runtime.vocab_size:
        wrong = next(t for t in tokens if not 0 <= t < runtime.vocab_size)
        raise RuntimeFailure(f"token id {wrong} is outside the vocabulary of {runtime.vocab_size}")
    if runtime.length + len(tokens) > runtime.context_length:
        raise ContextError(
            f"{runtime.length + len(tokens)} tokens do not fit into the context of {runtime.context_length}"
        )


def check_rewind(runtime: Runtime, length: int) -> None:
    """Raises `RuntimeFailure` unless 0 <= length <= runtime.length."""
    if not 0 <= length <= runtime.length:
        raise RuntimeFailure(f"cannot keep {length} of {runtime.length} cached tokens")


@runtime_checkable
class LoadsGGUF(Protocol):
    """Optional for a runtime plugin: it takes a GGUF file that is open already, so that none is read twice."""

    def load_gguf(self, file: GGUFFile, settings: Running) -> Runtime:
        """As `load`."""
        ...


class Vocabulary(Protocol):
    """A backend's own tokenizer of a file, loaded without the model."""

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """A text's ids, without BOS. With `specials`, spelled special tokens are read as tokens."""
        ...

    def close(self) -> None:
        """Free the memory now; unusable afterwards."""
        ...


@runtime_checkable
class LoadsVocabulary(Protocol):
    """Optional for a runtime plugin: its backend has a tokenizer of its own, which other programs use."""

    def load_vocabulary(self, path: Path, /) -> Vocabulary:
        """The tokenizer alone.

        Raises:
            FileError: it cannot be read, (`CheckpointError`) is damaged, or (`VocabularyError`) has no tokenizer that
                the backend can use.
            RuntimeFailure: the backend refuses it.
        """
        ...
