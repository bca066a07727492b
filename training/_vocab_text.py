"""The training text of a vocabulary: files and folders as weighted byte streams."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, SettingError
from edgekit.training.sections import Source
from edgekit.training.sources import clean, documents, paths

__all__ = ["Corpus", "read"]

_PIECE = 1 << 15


@dataclass(frozen=True)
class Corpus:
    """Pieces of text as the byte streams that tokens are matched in; those of a work are adjacent."""

    streams: list[NDArray[np.uint8]]
    weights: NDArray[np.float32]
    """(pieces,)"""
    works: NDArray[np.int64]
    """(pieces,): the number of the book, article or story that each piece is part of, ascending."""
    text_bytes: int
    """Of the texts in UTF-8, before normalization."""

    @property
    def weighted_bytes(self) -> float:
        """Stream bytes times their weights."""
        return float(sum(stream.size * float(w) for stream, w in zip(self.streams, self.weights, strict=True)))

    @property
    def number_of_works(self) -> int:
        return 1 + int(np.count_nonzero(np.diff(self.works)))

    def sample(self, size: int, rng: np.random.Generator) -> "Corpus":
        """About `size` stream bytes in randomly chosen pieces; the whole corpus if it is no larger."""
        sizes = np.array([stream.size for stream in self.streams])
        if sizes.sum() <= size:
            return self
        order = rng.permutation(len(sizes))
        chosen = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), size)))])
        share = sizes[chosen].sum() / sizes.sum()
        streams = [self.streams[index] for index in chosen]
        return Corpus(streams, self.weights[chosen], self.works[chosen], round(self.text_bytes * share))


def read(
    places: Sequence[Path],
    normalize: Callable[[str], NDArray[np.uint8]],
    progress: Callable[[Iterable[Any], str, int], Iterator[Any]],
    *,
    weights: Mapping[str, float] | None = None,
    cleaning: str = "none",
) -> Corpus:
    """All text in files and folders, as `training/sources.py` reads them.

    Args:
        weights: how often to count a text, by the name of its corpus: a JSON line's "corpus", or the name of its file
            without a number at the end. 1 for the others.
        cleaning: as a recipe's: none, lines or collapse.

    Raises:
        DataError: a file cannot be read, is not text or not JSON lines with a "text"; or there is no text.
        SettingError: a weight that is not above 0, or of a corpus that does not exist.
    """
    weights = weights or {}
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise SettingError(f"weight of {name} must be a number above 0, not {weight:g}")
    works: dict[str, list[tuple[NDArray[np.uint8], float]]] = {}
    names: set[str] = set()
    text_bytes = 0
    files = [path for place in places for path in paths(Source(path=str(place)))]
    for path in progress(files, "reading", len(files)):
        stem = path.name.split(".")[0]
        stem = stem.rstrip("0123456789").rstrip("-") or stem
        for corpus, work, text in documents(Source(path=str(path))):
            named = [name for name in (corpus, stem) if name in weights]
            weight = weights[named[0]] if named else 1.0
            names |= {corpus, stem}
            text = clean(_whole(text), cleaning)
            text_bytes += len(text.encode())
            pieces = ((normalize(piece), weight) for piece in _pieces(text))
            works.setdefault(f"{corpus}\0{work}", []).extend(pieces)
    unknown = sorted(set(weights) - names)
    if unknown:
        raise SettingError(f"no corpus is named {unknown[0]!r}: there are {', '.join(sorted(names))}")
    if not text_bytes:
        raise DataError(f"there is no text in {', '.join(map(str, places))}")
    numbered = [(*piece, number) for number, work in enumerate(sorted(works)) for piece in works[work]]
    return Corpus(
        [stream for stream, _, _ in numbered],
        np.array([weight for _, weight, _ in numbered], np.float32),
        np.array([number for _, _, number in numbered], np.int64),
        text_bytes,
    )


def _whole(text: str) -> str:
    """Replace lone surrogates, which JSON may have and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _pieces(text: str) -> Iterator[str]:
    """A long text cut after newlines, so that a sample can take parts of it. A cut does not change the streams: the
    rules treat a newline like the start of a text."""
    start = 0
    while len(text) - start > 2 * _PIECE:
        cut = text.rfind("\n", start, start + _PIECE) + 1
        if cut <= start:
            cut = text.find("\n", start) + 1
            if cut <= start:
                break
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]
