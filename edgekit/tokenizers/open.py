"""From a path, a Hub id or a vocabulary's name to a tokenizer, without opening the model."""

import json
from pathlib import Path

from edgekit.errors import VocabularyError
from edgekit.formats import hub
from edgekit.formats.checkpoint import side_files
from edgekit.settings import Running
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files, tokenizer_of
from edgekit.tokenizers.tokenmonster.tokenizer import files_for, resolve
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils import registry


def open_tokenizer(model: str | None, vocab: str | None, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, or of a TokenMonster vocabulary by file or by name.

    Raises:
        VocabularyError: there is none, or it is damaged.
        FileError: it cannot be read or downloaded.
    """
    if vocab is not None:
        vocabulary = Vocabulary.load(resolve(vocab))
        files = files_for(vocabulary.to_bytes())
        return from_files(files, json.loads(files["tokenizer_config.json"])["vocab_size"])
    where = hub.resolve(model, revision=revision)
    if where.is_dir():
        files = side_files(where)
        size = json.loads(files.get("config.json", b"{}")).get("vocab_size")
        if not isinstance(size, int):
            raise VocabularyError(f"{where} has no config.json that says vocab_size")
        return from_files(files, size)
    return _of_artefact(where)


def _of_artefact(where: Path) -> Tokenizer:
    """Through the runtime that opens it, which knows where the artefact keeps its files."""
    opened = registry.load("runtimes", registry.for_path("runtimes", where)).load(where, Running())
    tokenizer = tokenizer_of(opened.files, opened.vocab_size, opened)
    if tokenizer is None:
        raise VocabularyError(f"{where} has no tokenizer")
    return tokenizer
