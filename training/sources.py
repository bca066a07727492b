"""Documents of a recipe's sources: text files, JSON lines, the Hugging Face Hub, Python's own manual.

A source yields `SourceDocument`s in a fixed order. A text file is one document, or several separated by lines of
`<|endoftext|>`; a JSON line has `{"text", "doc", "corpus", ...}`, of which only the text is required.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.errors import DataError, MissingExtraError
from edgekit.training.sections import Source
from edgekit.utils import texts


class SourceDocument(NamedTuple):
    """A text, uncleaned, with the names of its corpus and work."""

    corpus: str
    doc: str
    """The work it belongs to, the unit of a split; the text itself if the record names none."""
    text: str


def clean(text: str, how: str) -> str:
    """Stentor2's cleaning. `how` is a recipe's `cleaning`.

    collapse: NFKC; lines stripped, empty ones dropped, and all white space one space (the model card's function).
    lines: NFKC and single spaces within a line; lines stripped, at most one empty line between paragraphs.
    none: the text unchanged.
    """
    if how == "none":
        return text
    text = unicodedata.normalize("NFKC", text)
    if how == "collapse":
        return " ".join(text.split())  # the same as stripping the lines first: split() takes all white space
    lines = "\n".join(" ".join(line.split()) for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def documents(source: Source) -> Iterator[SourceDocument]:
    """All documents of a source, uncleaned.

    Raises:
        DataError: a file is missing, empty, binary or damaged, or a record has no text; names file and line.
        MissingExtraError: a Hub dataset without the package `datasets`.
    """
    if source.path is not None:
        for path in paths(source):
            yield from _file(path, source)
    elif source.hub is not None:
        yield from _hub(source)
    else:
        yield from _python(source)


def paths(source: Source) -> list[Path]:
    """The files of a source, sorted. Raises `DataError` if there are none."""
    root = Path(source.path or "")
    if root.is_file():
        if not root.name.endswith(texts.SUFFIXES):
            raise DataError(f"{root} is not one of {', '.join(texts.SUFFIXES)}")
        return [root]
    matching = sorted(p for p in root.rglob("*") if p.is_file() and p.name.endswith(texts.SUFFIXES))
    if not matching:
        raise DataError(f"{root} {'has no ' + ', '.join(texts.SUFFIXES) if root.is_dir() else 'does not exist'}")
    return matching


def _file(path: Path, source: Source) -> Iterator[SourceDocument]:
    text = texts.text_of(path)
    corpus = source.name or re.sub(r"-\d+$", "", path.name.split(".")[0])
    if ".jsonl" not in path.suffixes:
        yield from (SourceDocument(corpus, part, part) for part in texts.SEPARATOR.split(text) if part.strip())
        return
    for where, record in texts.records(text, str(path)):
        yield _record(record, source, corpus, where)


def _record(record: dict[str, Any], source: Source, corpus: str, where: str) -> SourceDocument:
    text = record.get(source.text_field)
    if not isinstance(text, str):
        raise DataError(f"{where} has no text under {source.text_field!r}")
    named, doc = source.name or record.get("corpus"), record.get("doc")
    return SourceDocument(named if isinstance(named, str) and named else corpus, str(doc) if doc else text, text)


def _hub(source: Source) -> Iterator[SourceDocument]:
    try:
        import datasets  # here: no other source needs it
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{source.hub} needs datasets, which is not installed: pip install datasets") from error
    try:
        rows: Iterable[Any] = datasets.load_dataset(
            source.hub, source.subset, split=source.split, revision=source.revision, streaming=True
        )
        corpus = source.name or str(source.hub).rpartition("/")[2]
        for number, row in enumerate(rows):
            yield _record(row, source, corpus, f"{source.hub} record {number}")
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # the Hub's client raises many classes: no network, no such dataset, a gated one
        raise DataError(f"cannot stream {source.hub}: {' '.join(str(error).split())[:300]}") from error


def _python(source: Source) -> Iterator[SourceDocument]:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise DataError("this Python has no manual (pydoc_data): give a path instead of builtin") from error
    for name in sorted(topics):
        yield SourceDocument(source.name or "python", name, topics[name])
