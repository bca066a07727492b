"""What converters and their callers share: the contract of a converter, and the tensors it reports."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Written:
    """One tensor of an artefact."""

    name: str
    shape: tuple[int, ...]
    type: str
    """As the format calls it: Q4_0, F32, int8, ..."""
    bytes: int
    note: str = ""
    """Why the type is not the one asked for."""


@dataclass(frozen=True)
class Planned:
    """An artefact that is not written yet."""

    quant: str
    tensors: list[Written]
    """Empty if it cannot be made here."""
    bytes: int | None
    """Of the file, its receipt included; None if it cannot be made here."""
    note: str = ""
    """Why not, or what else there is to say."""


class ArtefactTensor(NamedTuple):
    """One tensor of an artefact, read back."""

    name: str
    """Hugging Face's, as are the order of its rows and its shape."""
    values: NDArray[np.float32]
    """Dequantized."""
    type: str
    """As the format calls it: Q4_0, F32, int8, ...; "int4/32" is 4 bits with a scale for each 32 values."""
