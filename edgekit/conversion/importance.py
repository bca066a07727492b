"""Importance: how much each input of each matrix counts, for quantizers that round by it.

A product y = W x is wrong by sum((W' - W) * x), so an error in a column of W counts by the mean square of the input
that it is multiplied with. Here these means are taken over a text, by `reference.py` on the source's own tensors:
llama.cpp's "imatrix", as its `llama-imatrix` collects it (mean over all tokens of x ** 2, by tensor; for a tied
embedding the inputs of the output matrix, since looking a row up multiplies nothing).

Measured on story-7m (earlier weights than today's), mean KL on 4,096 positions of stories that neither text contains,
without importance, with the bundled text (343 tokens) and with 16,384 tokens of the training mix: q4_0 0.056, 0.037,
0.039; q4_k_m 0.030, 0.031, 0.028; iq4_nl 0.040, 0.037, 0.036; q2_k 0.49, not measured, 0.28. K-quants search for their
scales anyway and gain only by long texts; most of what q4_0 gains is the search itself, which plain rounding lacks.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgekit.conversion.calibration import CALIBRATION
from edgekit.errors import CheckpointError, DataError, SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.embedded import FILES
from edgekit.inference.reference import Reference
from edgekit.tokenizers.load import from_files
from edgekit.utils import texts
from edgekit.utils.texts import Document

DEFAULT = "default"
"""Stands for the bundled text, on which receipts are measured, too."""
WINDOW = 256
"""Tokens that are read together; each window starts with an empty cache."""
MOST = 16384
"""The most tokens that are read, an equal share of each document."""
DOCUMENTS = MOST // WINDOW
"""The most documents that are read, at equal distances, since a file is often several corpora in a row."""
FEW = 32
"""The least tokens that a text must have."""
FLOOR = 1e-4
"""Share of a tensor's mean importance that every column gets: other texts may use what this one never did."""


@dataclass(frozen=True)
class Importance:
    """How much each column of a model's matrices counts, measured on a text.

    Attributes:
        values: Hugging Face's name of each matrix -> float32 (its columns,): mean of the squared inputs, above 0.
        text: what it was collected on, as words for a report.
        tokens: how many were read.
    """

    values: Mapping[str, NDArray[np.float32]]
    text: str
    tokens: int


def provenance(which: str) -> dict[str, str]:
    """A text as a receipt names it: without folders, and its sha256. Raises as `collect`."""
    name, documents = _read(which)
    digest = hashlib.sha256("\0".join(document.text for document in documents).encode("utf-8", "surrogatepass"))
    return {"text": name, "sha256": digest.hexdigest()}


def collect(checkpoint: Checkpoint, which: str) -> Importance:
    """Run a text through a checkpoint.

    Args:
        which: a .txt or .jsonl file, gzipped or not, or a folder of them; or `default`.

    Raises:
        FileError, DataError: the text cannot be read, or has too few tokens.
        VocabularyError: the model's tokenizer cannot be read.
        CheckpointError: the model has no tokenizer, or its activations are not finite.
        SettingError: there is no such file.
    """
    name, documents = _read(which)
    if not any(file in checkpoint.files for file in FILES):
        raise CheckpointError(f"{checkpoint.name} has no tokenizer: --importance needs one to read a text with")
    tokenizer = from_files(checkpoint.files, checkpoint.config.vocab_size)
    model, window, read = _Observed(checkpoint), min(WINDOW, checkpoint.config.max_position_embeddings), 0
    prefix = [] if tokenizer.bos is None else [tokenizer.bos]
    with threadpool_limits(1, "blas"):
        chosen = documents[:: -(-len(documents) // DOCUMENTS)]
        for document in chosen:
            ids = tokenizer.encode(document.text)[: MOST // len(chosen)]
            step = max(1, window - len(prefix))
            for start in range(0, len(ids), step):
                model.rewind(0)
                model.forward([*prefix, *ids[start : start + step]], every=True)
            read += len(ids)
    if read < FEW:
        raise DataError(f"{name} has {read} tokens: too few to tell which weights count")
    return Importance(
        {matrix: _means(matrix, sums, model.seen[matrix]) for matrix, sums in model.sums.items()}, name, read
    )


def _read(which: str) -> tuple[str, list[Document]]:
    if which == DEFAULT:
        return "bundled text", [Document("", CALIBRATION)]
    path = Path(which)
    if not path.exists():
        raise SettingError(f"importance is a file or folder of text, or `{DEFAULT}`: {path} does not exist")
    return path.resolve().name, texts.read([path])


def _means(name: str, sums: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    means = sums / count
    if not np.isfinite(means).all():
        raise CheckpointError(f"the inputs of {name} are not finite: the model is damaged")
    mean = float(means.mean())
    return np.maximum(means, FLOOR * mean if mean > 0 else 1.0).astype(np.float32)


class _Observed(Reference):
    """A reference that sums up what its matrices are multiplied with."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.seen: dict[str, int] = {}

    def _weight(self, name: str) -> Any:
        weight = super()._weight(name)
        return weight if weight.ndim == 1 else _ObservedMatrix(self, name, weight)


class _ObservedMatrix:
    """A matrix W (out, in) that is used as `x @ W.T`; numpy leaves this product to it."""

    __array_ufunc__ = None

    def __init__(self, model: _Observed, name: str, weight: NDArray[np.float32]) -> None:
        self._model, self._name, self._weight = model, name, weight

    @property
    def T(self) -> "_ObservedMatrix":
        return self

    def __rmatmul__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        model, name = self._model, self._name
        model.sums[name] = model.sums.get(name, 0) + np.einsum("ij,ij->j", x, x, dtype=np.float64)
        model.seen[name] = model.seen.get(name, 0) + len(x)
        return x @ self._weight.T
