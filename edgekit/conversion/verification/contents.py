"""What an artefact's file contains, read back and compared with its source: types, tensors, keys."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.conversion.base import ArtefactTensor, ComparesTensors, Converter, Describes, converter
from edgekit.conversion.verification.tensors import compare, explain, group_of
from edgekit.conversion.verification.tolerances import coarsest
from edgekit.errors import MissingExtraError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.gguf_config import llama_config
from edgekit.formats.open import open_model
from edgekit.utils import registry

UNKNOWN = "unknown"


class Artefact:
    """A model folder or file. It is opened once, when something is first asked of it.

    Attributes:
        path: the folder or file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._config: LlamaConfig | None = None

    @cached_property
    def folder(self) -> Checkpoint | None:
        """The checkpoint of a model folder; None for a file. Raises `FileError`, `CheckpointError`."""
        return open_model(self.path) if self.path.is_dir() else None

    @cached_property
    def _converter(self) -> Converter | None:
        """The converter that writes files like this one; None if there is none, or it is not installed."""
        name = registry.for_suffix("converters", self.path.suffix) if self.path.suffix else None
        try:
            return converter(name) if name else None
        except MissingExtraError:
            return None

    @cached_property
    def opened(self) -> Any:
        """The file as its converter opens it; None for a folder, or without a converter that reads tensors back."""
        if self.path.is_dir():
            return None
        if isinstance(self._converter, ComparesTensors):
            return self._converter.open_artefact(self.path)
        return GGUFFile(self.path) if self.path.suffix == ".gguf" else None

    @property
    def gguf(self) -> GGUFFile | None:
        return self.opened if isinstance(self.opened, GGUFFile) else None

    @property
    def type(self) -> str:
        """The coarsest type among the matrices; "unknown" if the file does not tell.

        Raises:
            CheckpointError: not a model, or a damaged one.
        """
        if (folder := self.folder) is not None:
            return coarsest([folder.dtypes[name].lower() for name, tensor in folder if tensor.ndim > 1])
        if (file := self.gguf) is not None:
            return coarsest([t.type.lower() for t in file.tensors.values() if len(t.shape) > 1])
        registry.for_path("converters", self.path)  # raises for anything but a model
        if self.opened is None or not isinstance(self._converter, Describes):
            return UNKNOWN
        return self._converter.describe(self.opened)[0].get("edgekit.quant", UNKNOWN)

    @property
    def is_weighted(self) -> bool:
        """Whether a GGUF file says that it was rounded by importance, as llama-quantize writes it, too."""
        return self.gguf is not None and "quantize.imatrix.entries_count" in self.gguf.metadata

    def tensors(self) -> Iterator[ArtefactTensor]:
        """The tensors, read back one at a time; none if no installed converter reads this format back."""
        if (folder := self.folder) is not None:
            for name in folder.config.shapes():
                yield ArtefactTensor(name, folder.float32(name), folder.dtypes[name])
        elif isinstance(self._converter, ComparesTensors):
            yield from self._converter.weights(self.opened)

    def config(self, files: Mapping[str, bytes]) -> LlamaConfig | None:
        """The configuration in a GGUF's own keys, else that of the config.json among `files`; None without one."""
        if self._config is None:
            if self.gguf is not None:
                self._config = llama_config(self.gguf)
            elif "config.json" in files:
                values = json.loads(files["config.json"])
                self._config = LlamaConfig.from_dict(values, f"{self.path}: config.json")
        return self._config


@dataclass
class Group:
    """The tensors of one kind (embedding, head, norms, attention, ffn), compared with the source's."""

    types: Counter[str] = field(default_factory=Counter)
    """How many of each type."""
    error: float = 0.0
    """The largest error of a tensor: root mean square of the difference over that of the source's values."""

    def record(self) -> dict[str, Any]:
        return {"types": dict(self.types), "error": self.error}


@dataclass
class Content:
    """An artefact's tensors, compared with the source's."""

    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Those that were read back, by Hugging Face's names."""
    groups: dict[str, Group] = field(default_factory=dict)
    complete: bool = False
    """Whether all of the source's tensors are among them."""
    failure: str = ""
    """Which tensors differ by more than their type explains, in a sentence; "" if none does."""


def read_content(source: Checkpoint, artefact: Artefact) -> Content:
    """Read an artefact's tensors and compare them.

    Raises:
        FileError, CheckpointError: the file is damaged.
    """
    content = Content()
    expected, broken, limits = dict(source.tensors), {}, {}
    # A tied head that is stored all the same must equal the embedding.
    expected.setdefault("lm_head.weight", expected["model.embed_tokens.weight"])
    for difference, tensor in compare(expected, artefact.tensors(), artefact.is_weighted):
        content.tensors[tensor.name] = tensor.values
        group = content.groups.setdefault(group_of(tensor.name), Group())
        group.types[tensor.type] += 1
        group.error = max(group.error, difference.error)
        if not difference.sound:
            broken[tensor.name], limits[tensor.name] = tensor, difference.limit
    content.complete = set(source.tensors) <= set(content.tensors)
    if broken:
        content.failure = explain(expected, broken, source.config, limits)
    return content


def artefact_checkpoint(artefact: Artefact, files: Mapping[str, bytes], content: Content) -> Checkpoint | None:
    """An artefact's own tensors under its own configuration; None if not all of them were read back.

    Raises:
        CheckpointError: the tensors do not fit the configuration.
    """
    config = artefact.config(files)
    if config is None or not content.complete or set(config.shapes()) - set(content.tensors):
        return None
    tensors: dict[str, NDArray] = dict(content.tensors)
    return Checkpoint(artefact.path.stem, config, tensors, dict.fromkeys(tensors, "F32"), dict(files))
