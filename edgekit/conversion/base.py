"""The contract of a converter, and the types that converters and their callers share.

A module `converters/NAME.py` is a converter if it satisfies `Converter`; `edgekit convert --to NAME` finds it by its
file name. Everything else is optional and has a protocol of its own, which the module satisfies by having the members:

    ReadsBack         read                      its format is a source for every converter
    ComparesTensors   open_artefact, weights    a conversion is compared with its source tensor by tensor
    CarriesReceipt    add_receipt, convert(..., receipt=)   the artefact carries what was measured
    PlansSizes        sizes                     `--plan`, `--target-size` and `--max-kl`
    PlansTensors      planned, DIRECT           `edgekit inspect` shows sizes of types before anything is converted
    HasSynonyms       SAME                      quantizations that are known by two names
    HasProbes         PROBES                    the quantizations that `--sensitivity` measures by default
    WeighsRounding    WEIGHTED                  `--importance`
    ChoosesTypes      chosen                    a quantization that chooses the types of tensors by measuring
    Describes         describe                  metadata, tensors and operators of a file of its format

Callers ask with `isinstance(converter(name), PlansSizes)`; there is no `hasattr`. A converter only writes to the
path that it is given: temporary names, overwriting, verification and the receipt are done once, in `convert.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UnknownPluginError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.open import ReadsBack
from edgekit.settings import Converting
from edgekit.utils import registry
from edgekit.utils.progress import Progress

__all__ = [
    "ArtefactTensor", "CarriesReceipt", "ChoosesTypes", "ComparesTensors", "Converter", "Describes", "HasProbes",
    "HasSynonyms", "Planned", "PlansSizes", "PlansTensors", "ReadsBack", "WeighsRounding", "Written",
    "converter", "describe",
]  # fmt: skip


@dataclass(frozen=True)
class Written:
    """One tensor of an artefact."""

    name: str
    shape: tuple[int, ...]
    type: str
    """As the format calls it: Q4_0, F32, int8, ..."""
    bytes: int
    note: str = ""
    """Why the type is not the requested one."""


@dataclass(frozen=True)
class Planned:
    """An artefact that is not written yet."""

    quant: str
    tensors: list[Written]
    """Empty if it cannot be written on this machine."""
    bytes: int | None
    """Size of the file, receipt included; None if it cannot be written on this machine."""
    note: str = ""
    """Why not, or another remark."""


class ArtefactTensor(NamedTuple):
    """One tensor of an artefact, read back."""

    name: str
    """Hugging Face's name; rows and shape are in Hugging Face's order, too."""
    values: NDArray[np.float32]
    """Dequantized."""
    type: str
    """As the format calls it: Q4_0, F32, int8, ...; "int4/32" is 4 bits with a scale for each 32 values."""


@runtime_checkable
class Converter(Protocol):
    """What every converter has."""

    SUFFIX: str
    """Of what it writes: ".gguf", ".onnx", or "" for a folder. Read as text, so it must be a plain string literal."""
    QUANTS: tuple[str, ...]
    """The values of `--quant`, the smallest loss first."""
    DEFAULT: str
    """The one of `QUANTS` that is used if none is named."""

    def convert(self, checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress, /) -> list[Written]:
        """Write `checkpoint` to `out`, a path that does not exist, and return its tensors.

        Where other programs will treat the artefact differently, a sentence is appended to `checkpoint.notes`.

        Raises:
            SettingError: a quantization that is not in `QUANTS`, or a setting that does not apply to this format.
            CheckpointError: the format cannot hold the model; names the tensor.
            MissingExtraError: this quantization needs a package that is not installed.
        """
        ...


@runtime_checkable
class ComparesTensors(Protocol):
    """A converter that reads the tensors of its own files back."""

    def open_artefact(self, path: Path, /) -> Any:
        """The file, opened once. Raises `FileError`, `CheckpointError`."""
        ...

    def weights(self, artefact: Any, /) -> Iterator[ArtefactTensor]:
        """Every tensor that can be identified, one at a time, in the order of `LlamaConfig.shapes`.

        Args:
            artefact: what `open_artefact` returned, or a path.

        Raises:
            FileError, CheckpointError: damaged, a missing tensor, or a type that cannot be dequantized.
        """
        ...


@runtime_checkable
class CarriesReceipt(Protocol):
    """A converter whose files have a place for the receipt, the key `edgekit.receipt`."""

    def convert(
        self, checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress, /, receipt: int = 0
    ) -> list[Written]:
        """As `Converter.convert`. `receipt`: characters to reserve for `add_receipt`, if the format needs that."""
        ...

    def add_receipt(self, path: Path, text: str, /) -> None:
        """Put the receipt into a finished file, in place.

        Raises:
            CheckpointError: the file has a receipt already, or `text` is longer than what was reserved.
        """
        ...


@runtime_checkable
class PlansSizes(Protocol):
    """A converter that knows what it would write."""

    def sizes(self, checkpoint: Checkpoint, settings: Converting, /) -> Iterator[Planned]:
        """What each of `QUANTS` would become, exact to the byte. `settings.quant` is ignored.

        Raises:
            SettingError: a setting for which no size is known.
        """
        ...


@runtime_checkable
class PlansTensors(Protocol):
    """A converter that knows the tensors of its simple quantizations from the shapes alone."""

    DIRECT: tuple[str, ...]
    """The quantizations that `planned` takes."""

    def planned(self, config: LlamaConfig, quant: str, /) -> list[Written]:
        """The tensors of a file, without a checkpoint."""
        ...


@runtime_checkable
class HasSynonyms(Protocol):
    """A converter some of whose quantizations have two names."""

    SAME: dict[str, str]
    """Name -> the other name. `--target-size` measures only one of them."""


@runtime_checkable
class HasProbes(Protocol):
    """A converter with quantizations that show how sensitive tensors are."""

    PROBES: tuple[str, ...]
    """Those that `--plan --sensitivity` measures if `--quant` names none."""


@runtime_checkable
class WeighsRounding(Protocol):
    """A converter that can round by importance."""

    WEIGHTED: tuple[str, ...]
    """The quantizations that `Converting.importance` improves."""


@runtime_checkable
class ChoosesTypes(Protocol):
    """A converter with a quantization that chooses the types of some tensors by measuring."""

    def chosen(self, checkpoint: Checkpoint, settings: Converting, /) -> dict[str, Any] | None:
        """What was chosen and measured, plain values for the receipt; None if the types follow from `quant`.

        The converter remembers what it measured for the conversion itself.
        """
        ...


@runtime_checkable
class Describes(Protocol):
    """A converter that lists what a file of its format contains."""

    def describe(self, artefact: Any, /) -> tuple[dict[str, str], list[Written], dict[str, int]]:
        """Metadata, tensors, and how many nodes of each operator the graph has, most frequent first.

        Args:
            artefact: a path, or what `ComparesTensors.open_artefact` returned.
        """
        ...


def converter(name: str) -> Converter:
    """The converter of that name.

    Raises:
        UnknownPluginError: there is no such converter, or the module lacks a member of `Converter`.
        MissingExtraError: it needs a package that is not installed.
    """
    module = registry.load("converters", name)
    if not isinstance(module, Converter):
        raise UnknownPluginError(f"converters/{name}.py is not a converter: it needs SUFFIX, QUANTS, DEFAULT, convert")
    return module


def describe(name: str, path: Path) -> tuple[dict[str, str], list[Written], dict[str, int]]:
    """`Describes.describe` of the converter of that name.

    Raises:
        UnknownPluginError: there is no such converter, or it does not describe files.
        MissingExtraError: it needs a package that is not installed.
        FileError, CheckpointError: the file cannot be read, or is damaged.
    """
    module = converter(name)
    if not isinstance(module, Describes):
        raise UnknownPluginError(f"the converter {name} does not describe files")
    return module.describe(path)
