"""Text tokenized once, in parallel processes, into memory-mapped uint16 shards with a manifest.

    folder/000.bin, 001.bin ...   ids of one document after another, each followed by EOS (and preceded by BOS if asked)
    folder/documents.npy          where each document is, its corpus and its split: a table of `DOCUMENT`
    folder/manifest.json          the inputs; a folder is reused if the same inputs are tokenized again

The folder's name is a hash of the sources' bytes, the vocabulary and the cleaning, so stale tokens are never used.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from edgekit.errors import DataError, FileError
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training.encoding import Encoders
from edgekit.training.progress import Meter, silent
from edgekit.training.sections import Data, Source
from edgekit.training.sources import documents, paths
from edgekit.utils import files
from edgekit.utils.guard import reads

VERSION = 1
SHARD = 1 << 26
"""Tokens after which a new shard starts: 128 MiB."""
TRAIN, VALIDATION = 0, 1
DOCUMENT = np.dtype(
    [("shard", "<u2"), ("corpus", "<u2"), ("source", "<u2"), ("split", "u1")]
    + [("start", "<i8"), ("tokens", "<i8"), ("bytes", "<i8")]
)


@dataclass(frozen=True)
class Shards:
    """Tokenized documents, memory-mapped.

    Attributes:
        folder: where the files are.
        corpora: names; `documents["corpus"]` is an index into them.
        documents: `DOCUMENT` (n,), in the order of the sources. `tokens` counts EOS and BOS, `bytes` is the cleaned
            text's UTF-8 length.
    """

    folder: Path
    corpora: tuple[str, ...]
    documents: NDArray[Any]
    shards: tuple[NDArray[np.uint16], ...]

    def split(self, split: int) -> NDArray[Any]:
        """The documents of TRAIN or VALIDATION."""
        return self.documents[self.documents["split"] == split]

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """{split: {corpus: {documents, tokens, bytes}}}, for logs and the model card."""
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for split, title in ((TRAIN, "train"), (VALIDATION, "validation")):
            rows = self.split(split)
            for index, name in enumerate(self.corpora):
                own = rows[rows["corpus"] == index]
                if len(own):
                    counts.setdefault(title, {})[name] = {
                        "documents": len(own), "tokens": int(own["tokens"].sum()), "bytes": int(own["bytes"].sum()),
                    }  # fmt: skip
        return counts


def prepare(data: Data, vocabulary: Vocabulary, bos: int | None, eos: int, meter: Meter = silent) -> Shards:
    """The tokenized data of a recipe: from the cache, or tokenized now.

    Args:
        bos: the id put before each document, if `data.add_bos`.
        eos: the id put after each document.

    Raises:
        DataError: text that cannot be read, or none at all.
        FileError: the shards cannot be written.
    """
    if eos >= 1 << 16:
        raise DataError(f"the vocabulary has {eos} ids; shards can have at most 65,536")
    first = bos if data.add_bos else None
    inputs = _inputs(data, vocabulary, first, eos)
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
    root = Path(data.cache) if data.cache else _cache()
    folder = root / f"tokens-{key}"
    if not (folder / "manifest.json").is_file():
        with files.replacing(folder) as temporary:
            temporary.mkdir()
            _write(temporary, data, vocabulary, first, eos, inputs, meter)
    return open_shards(folder)


@reads(DataError)
def open_shards(folder: Path) -> Shards:
    """Map what `prepare` wrote. Raises `DataError` if it is damaged."""
    try:
        manifest = json.loads(files.read_bytes(folder / "manifest.json"))
        table = np.load(folder / "documents.npy")
        if manifest["shards"] != (count := len(list(folder.glob("*.bin")))):
            raise ValueError(f"{manifest['shards']} shards, of which {count} are there"[:80])
        names = [folder / f"{i:03d}.bin" for i in range(count)]
        shards = tuple(np.memmap(name, np.uint16, "r") for name in names)
        if sum(map(len, shards)) != manifest["tokens"] or table.dtype != DOCUMENT:
            raise ValueError(f"{sum(map(len, shards))} tokens instead of {manifest['tokens']}")
        corpora = manifest["corpora"]
        if not isinstance(corpora, list) or not all(isinstance(name, str) for name in corpora):
            raise ValueError("corpora is not a list of names")
        sizes = np.array([*map(len, shards), 0])
        where, start, tokens = np.minimum(table["shard"], len(shards)), table["start"], table["tokens"]
        if (start < 0).any() or (tokens < 0).any() or (start > sizes[where] - tokens).any():
            raise ValueError("a document is outside its shard")
        if (table["corpus"] >= len(corpora)).any():
            raise ValueError("a document has no corpus")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} is damaged ({' '.join(str(error).split())}): delete it and run again") from error
    return Shards(folder, tuple(manifest["corpora"]), table, shards)


def _cache() -> Path:
    return Path(os.environ.get("EDGEKIT_CACHE") or platformdirs.user_cache_path("edgekit")) / "tokens"


def _inputs(data: Data, vocabulary: Vocabulary, bos: int | None, eos: int) -> dict[str, Any]:
    """Everything that the shards depend on, for JSON. Weights are left out: they only change the order."""

    def described(source: Source) -> dict[str, Any]:
        values = {k: v for k, v in dataclasses.asdict(source).items() if k not in ("path", "weight", "weights")}
        if source.path is not None:
            values["files"] = [[path.name, _sha256(path)] for path in paths(source)]
        return values

    return {
        "version": VERSION,
        "vocabulary": hashlib.sha256(vocabulary.to_bytes()).hexdigest(),
        "bos": bos,
        "eos": eos,
        "cleaning": data.cleaning,
        "sources": [described(s) for s in data.sources],
        "validation": [described(s) for s in data.validation],
        "validation_fraction": data.validation_fraction,
        "source_token_budget": data.source_token_budget,
    }


def _sha256(path: Path) -> str:
    try:
        with files.open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {path}: {files.os_reason(error)}") from error


def held_out(doc: str, fraction: float) -> bool:
    """Whether a document is validation data: decided by a hash of its name, so the same in every run."""
    return int.from_bytes(hashlib.sha256(doc.encode("utf-8", "replace")).digest()[:8], "big") < fraction * 2**64


class _Writer:
    """Appends documents to shards and records them in the table."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: list[tuple[int, ...]] = []  # of `DOCUMENT`
        self.corpora: dict[str, int] = {}
        self.shard, self.filled, self.tokens = -1, SHARD, 0
        self.file: Any = None

    def add(self, corpus: str, source: int, split: int, ids: NDArray[np.uint16], length: int) -> None:
        if self.filled >= SHARD:
            self.close()
            self.shard, self.filled = self.shard + 1, 0
            self.file = open(self.folder / f"{self.shard:03d}.bin", "wb")  # noqa: SIM115 (closed in `close`)
        index = self.corpora.setdefault(corpus, len(self.corpora))
        self.rows.append((self.shard, index, source, split, self.filled, len(ids), length))
        self.file.write(ids.tobytes())
        self.filled += len(ids)
        self.tokens += len(ids)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _write(
    folder: Path, data: Data, vocabulary: Vocabulary, bos: int | None, eos: int, inputs: dict[str, Any], meter: Meter
) -> None:
    writer, started = _Writer(folder), time.perf_counter()
    try:
        with Encoders(vocabulary, data.cleaning, bos, eos, data.workers) as encode:
            for i, source in enumerate(data.validation):
                _write_source(source, i, VALIDATION, None, encode, writer, meter, data)
            budget, before = data.source_token_budget, writer.tokens
            for i, source in enumerate(data.sources):
                # Equal parts of the rest, so that the tokens one source lacks go to those after it.
                left = None if budget is None else budget - (writer.tokens - before)
                part = None if left is None else left // (len(data.sources) - i)
                _write_source(source, i, TRAIN, part, encode, writer, meter, data)
    finally:
        writer.close()
    if not any(row[3] == TRAIN for row in writer.rows):
        raise DataError("the sources have no text to train on")
    np.save(folder / "documents.npy", np.array(writer.rows, DOCUMENT))
    manifest = {
        **inputs, "shards": writer.shard + 1, "tokens": writer.tokens, "corpora": list(writer.corpora),
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _write_source(
    source: Source,
    number: int,
    split: int,
    budget: int | None,
    encode: Callable,
    writer: _Writer,
    meter: Meter,
    data: Data,
) -> None:
    """Write the documents of one source until it ends or its token limit is reached."""
    limit = min((n for n in (budget, source.tokens) if n is not None), default=None)
    what = f"tokenizing {source.path or source.hub or source.builtin}"
    taken = 0
    for document, ids, length in encode(documents(source)):
        if len(ids) <= 1:  # nothing but the EOS
            continue
        document_split = split
        if split == TRAIN and data.validation_fraction and held_out(document.doc, data.validation_fraction):
            document_split = VALIDATION
        writer.add(document.corpus, number, document_split, ids, length)
        taken += len(ids)
        meter(what, taken, limit, "tokens")
        if limit is not None and taken >= limit:
            break
    if taken == 0:
        raise DataError(f"{what.removeprefix('tokenizing ')} (source {number}) has no text")
