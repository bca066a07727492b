"""What an artefact's file holds, read back and laid beside its source: types, tensors, keys."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.conversion.base import ArtefactTensor
from edgekit.conversion.verification.tensors import compare, explain, group_of
from edgekit.conversion.verification.tolerances import coarsest
from edgekit.errors import CheckpointError, MissingExtraError
from edgekit.formats import gguf, gguf_config
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.utils import registry


@dataclass
class Group:
    """The tensors of one kind (embedding, head, norms, attention, ffn) beside the source's."""

    types: Counter[str] = field(default_factory=Counter)
    """How many of each type."""
    error: float = 0.0
    """The largest error of a tensor: root mean square of the difference over that of the source's values."""

    def record(self) -> dict[str, Any]:
        return {"types": dict(self.types), "error": self.error}


@dataclass
class Content:
    """An artefact's tensors beside the source's."""

    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Those that were read back, by Hugging Face's names."""
    groups: dict[str, Group] = field(default_factory=dict)
    complete: bool = False
    """Whether all of the source's are among them."""
    failure: str = ""
    """What differs more than its type can, in a sentence."""


def kind_of(path: Path) -> str:
    """The coarsest type among an artefact's matrices; "unknown" where nothing tells.

    Raises:
        CheckpointError: no model, or a damaged one.
    """
    if path.is_dir():
        opened = open_folder(path)
        return coarsest([opened.dtypes[name].lower() for name, tensor in opened if tensor.ndim > 1])
    if path.suffix == ".gguf":
        return coarsest([t.type.lower() for t in gguf.GGUFFile(path).tensors.values() if len(t.shape) > 1])
    if path.suffix == ".onnx":
        try:
            return registry.load("converters", "onnx").describe(path)[0].get("edgekit.quant", "unknown")
        except MissingExtraError:
            return "unknown"
    raise CheckpointError(f"{path} is not a model edgekit can open: give a model folder, a .gguf or a .onnx")


def held(path: Path) -> Iterator[ArtefactTensor] | None:
    """An artefact's tensors as its converter reads them back; None if it does not, or is not installed."""
    if path.is_dir():
        return _of_folder(path)
    for name in registry.names("converters"):
        if path.suffix == registry.suffix("converters", name):
            try:
                weights = getattr(registry.load("converters", name), "weights", None)
            except MissingExtraError:
                return None
            return None if weights is None else weights(path)
    return None


def is_weighted(path: Path) -> bool:
    """Whether a GGUF file says that it was rounded by importance, as llama-quantize writes it too."""
    return path.suffix == ".gguf" and "quantize.imatrix.entries_count" in gguf.GGUFFile(path).metadata


def _of_folder(path: Path) -> Iterator[ArtefactTensor]:
    opened = open_folder(path)
    return (ArtefactTensor(name, opened.float32(name), opened.dtypes[name]) for name in opened.config.shapes())


def content(source: Checkpoint, path: Path) -> Content:
    """Read an artefact's tensors and compare them.

    Raises:
        FileError, CheckpointError: the file is damaged.
    """
    found, read = Content(), held(path)
    wanted, broken, limits = dict(source.tensors), {}, {}
    # A tied head that is written all the same must be the embedding.
    wanted.setdefault("lm_head.weight", wanted["model.embed_tokens.weight"])
    for difference, tensor in compare(wanted, read or (), is_weighted(path)):
        found.tensors[tensor.name] = tensor.values
        group = found.groups.setdefault(group_of(tensor.name), Group())
        group.types[tensor.type] += 1
        group.error = max(group.error, difference.error)
        if not difference.sound:
            broken[tensor.name], limits[tensor.name] = tensor, difference.limit
    found.complete = set(source.tensors) <= set(found.tensors)
    if broken:
        found.failure = explain(wanted, broken, source.config, limits)
    return found


def config_of(path: Path, files: Mapping[str, bytes]) -> LlamaConfig | None:
    """What an artefact's own keys say of the model, or the config.json that it carries; None of one that has none."""
    if path.suffix == ".gguf":
        return gguf_config.llama_config(gguf.GGUFFile(path))
    if "config.json" not in files:
        return None
    return LlamaConfig.from_dict(json.loads(files["config.json"]), f"{path}: config.json")


def own_model(path: Path, files: Mapping[str, bytes], found: Content) -> Checkpoint | None:
    """An artefact's own tensors under its own keys; None where they are not all read back.

    Raises:
        CheckpointError: its tensors do not fit its keys.
    """
    config = config_of(path, files)
    if config is None or not found.complete or set(config.shapes()) - set(found.tensors):
        return None
    tensors: dict[str, NDArray] = dict(found.tensors)
    return Checkpoint(path.stem, config, tensors, dict.fromkeys(tensors, "F32"), dict(files))
