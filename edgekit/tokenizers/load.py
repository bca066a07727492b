"""From a model's own files, or from a path, to the tokenizer that opens them; ids and pieces as a person sees them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.errors import UsageError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.checkpoint import side_files
from edgekit.formats.embedded import FILES
from edgekit.settings import Running
from edgekit.tokenizers.base import Tokenizer, read_json
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils import registry


def from_files(files: Mapping[str, bytes], vocab_size: int) -> Tokenizer:
    """The tokenizer that a model's files describe.

    Args:
        files: what lies beside the weights, by name. `config.json` and `generation_config.json` are asked for
            the ids that end a text; the tokenizer itself is in those of `FILES`.
        vocab_size: rows of the model's embedding.

    Raises:
        VocabularyError: no tokenizer, a damaged one, or one with more ids than the model has rows.
    """
    kind = read_json(files, "tokenizer_config.json").get("tokenizer_type")
    if kind == "tokenmonster" or ("tokenizer.json" not in files and "tokenmonster.vocab" in files):
        from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

        return TokenMonsterTokenizer.from_files(files, vocab_size)
    if "tokenizer.json" in files:
        from edgekit.tokenizers.huggingface import JsonTokenizer

        return JsonTokenizer.from_files(files, vocab_size)
    if "tokenizer.model" in files:
        raise VocabularyError(
            "the model has tokenizer.model only, which edgekit does not read: write tokenizer.json beside it with "
            "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    raise VocabularyError(
        "the model has no tokenizer: put tokenizer.json, or tokenizer_config.json and tokenmonster.vocab, beside it"
    )


def open_tokenizer(model: str | None, vocab: str | None, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, or of a TokenMonster vocabulary by file or by name.

    Raises:
        VocabularyError: there is none, or it is damaged.
        FileError: it cannot be read or downloaded.
    """
    if vocab is not None:
        from edgekit.tokenizers.tokenmonster.tokenizer import files_for, resolve

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
    for name in registry.names("runtimes"):
        if registry.suffix("runtimes", name) == where.suffix != "":
            opened = registry.load("runtimes", name).load(where, Running())
            if any(name in opened.files for name in FILES):
                return from_files(opened.files, opened.vocab_size)
            return opened.own_tokenizer()  # type: ignore[no-any-return]
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
