"""The verb `tokenize`: text to ids and back, with the tokenizer of a model or of a bare vocabulary."""

import json
from collections.abc import Sequence
from pathlib import Path

from edgekit import tokenizer
from edgekit.errors import UsageError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.checkpoint import side_files
from edgekit.tokenizer import Tokenizer
from edgekit.tokenmonster import Vocabulary
from edgekit.utils import registry


def open_tokenizer(model: str | None, vocab: str | None, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, or of a TokenMonster vocabulary by file or by name.

    Raises:
        VocabularyError: there is none, or it is damaged.
        FileError: it cannot be read or downloaded.
    """
    if vocab is not None:
        from edgekit import tokenmonster_tokenizer

        vocabulary = Vocabulary.load(tokenmonster_tokenizer.resolve(vocab))
        files = tokenmonster_tokenizer.files_for(vocabulary.to_bytes())
        return tokenizer.from_files(files, json.loads(files["tokenizer_config.json"])["vocab_size"])
    where = hub.resolve(model, revision=revision)
    if where.is_dir():
        files = side_files(where)
        size = json.loads(files.get("config.json", b"{}")).get("vocab_size")
        if not isinstance(size, int):
            raise VocabularyError(f"{where} has no config.json that says vocab_size")
        return tokenizer.from_files(files, size)
    return _of_artefact(where)


def _of_artefact(where: Path) -> Tokenizer:
    """Through the runtime that opens it, which knows where the artefact keeps its files."""
    from edgekit.model import load

    return load(where).tokenizer if where.suffix in _suffixes() else _unknown(where)


def _suffixes() -> set[str]:
    return {registry.suffix("runtimes", name) for name in registry.names("runtimes")} - {""}


def _unknown(where: Path) -> Tokenizer:
    raise VocabularyError(f"{where} is no model that edgekit knows; a bare vocabulary goes with --vocab")


def parse_ids(text: str, vocab_size: int) -> list[int]:
    """Ids out of `1, 2 3` or `[1, 2, 3]`. Raises `UsageError` naming what is none."""
    ids = []
    for word in text.replace(",", " ").strip("[] \n").split():
        if not word.isdecimal() or int(word) >= vocab_size:
            raise UsageError(f"{word!r} is no token id from 0 to {vocab_size - 1}")
        ids.append(int(word))
    return ids


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each id adds to the text, in order; an unfinished character shows with the id that completes it."""
    decoder = tokenizer.decoder()
    found = [decoder.feed(token) for token in ids]
    if found:
        found[-1] += decoder.flush()
    return found
