"""Texts to evaluate and train on: .txt and .jsonl files, gzipped or not, and folders of them, by corpus.

A .txt is one document, or several separated by lines of `<|endoftext|>`. A JSON line needs `"text"` and may have a
`"corpus"`, by default the file's name without its number.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from edgekit.errors import DataError
from edgekit.utils.files import read_bytes
from edgekit.utils.guard import reading

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
FEW, MOST_RATIO = 64_000_000, 100
"""Bytes that any compressed file may become, and times its size."""
SEPARATOR = re.compile(r"^[ \t]*<\|endoftext\|>[ \t]*$", re.MULTILINE)


class Document(NamedTuple):
    """A text and the corpus that it belongs to."""

    corpus: str
    text: str


def read(paths: Iterable[str | Path]) -> list[Document]:
    """All documents of some files and folders, in order; a folder's files by name. Texts are not cleaned.

    Raises:
        FileError: a file cannot be read.
        DataError: a file that is empty, binary or damaged, or a record without text; names the file and line.
    """
    documents = []
    for path in paths:
        with reading(path, DataError):
            documents += [document for file in _files(Path(path)) for document in _documents(file)]
    return documents


def text_of(path: Path) -> str:
    """A whole file as text, unzipped if it is a `.gz`. Raises `FileError`, `DataError`."""
    data = read_bytes(path)
    if path.name.endswith(".gz"):
        try:
            data = expanded(gzip.GzipFile(fileobj=io.BytesIO(data)), most(len(data)), str(path))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file: {error}") from error
    return decode(data, str(path))


def most(size: int) -> int:
    """The most bytes that a compressed text file of `size` bytes may become: text shrinks to a fifth or a third."""
    return max(FEW, MOST_RATIO * size)


def expanded(file: IO[bytes] | gzip.GzipFile, limit: int, where: str) -> bytes:
    """All of an open file, decompressed while it is read. Raises `DataError` if that is more than `limit` bytes."""
    data = file.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{where} expands to more than {limit / 1e6:.0f} MB: that is no compressed text")
    return data


def decode(data: bytes, where: str) -> str:
    """The bytes of a text file as text. Raises `DataError` if they are not UTF-8, are binary, or empty."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text (at byte {error.start})") from error
    if "\0" in text:
        raise DataError(f"{where} is binary, not text (a zero at byte {data.index(0)})")
    if not text.strip():
        raise DataError(f"{where} is empty")
    return text


def records(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON lines, each with its file and line. Raises `DataError` naming an invalid line."""
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may contain U+2028
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} line {number} is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{where} line {number} is not a JSON object")
            yield f"{where} line {number}", record


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.exists() and not path.name.endswith(SUFFIXES):
            raise DataError(f"{path} is none of {', '.join(SUFFIXES)}")
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    if not files:
        raise DataError(f"{path} holds no {', '.join(SUFFIXES)}")
    return files


def _documents(path: Path) -> Iterator[Document]:
    text = text_of(path)
    corpus = re.sub(r"-\d+$", "", path.name.split(".")[0])
    if ".jsonl" not in path.suffixes:
        yield from (Document(corpus, part) for part in SEPARATOR.split(text) if part.strip())
        return
    for where, record in records(text, str(path)):
        if not isinstance(document := record.get("text"), str):
            raise DataError(f'{where} has no "text"')
        named = record.get("corpus")
        yield Document(named if isinstance(named, str) and named else corpus, document)
