"""From a model's files to its tokenizer; ids and pieces for display. Imports nothing heavy."""

from collections.abc import Mapping, Sequence

from edgekit.errors import UsageError, VocabularyError
from edgekit.formats.embedded import FILES
from edgekit.tokenizers.base import OwnsTokenizer, Tokenizer, read_json


def from_files(files: Mapping[str, bytes], vocab_size: int) -> Tokenizer:
    """The tokenizer that a model's files describe.

    Args:
        files: the model's files other than weights, by name. `config.json` and `generation_config.json` give the
            ids that end a text; the tokenizer itself is in those of `FILES`.
        vocab_size: rows of the model's embedding.

    Raises:
        VocabularyError: no tokenizer, a damaged one, or one with more ids than the model has rows.
        MissingExtraError: tokenizer.model alone, without the package `sentencepiece`.
    """
    kind = read_json(files, "tokenizer_config.json").get("tokenizer_type")
    if kind == "tokenmonster" or ("tokenizer.json" not in files and "tokenmonster.vocab" in files):
        from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

        return TokenMonsterTokenizer.from_files(files, vocab_size)
    if "tokenizer.json" in files:
        from edgekit.tokenizers.huggingface import JsonTokenizer

        return JsonTokenizer.from_files(files, vocab_size)
    if "tokenizer.model" in files:
        from edgekit.tokenizers import sentencepiece
        from edgekit.tokenizers.huggingface import JsonTokenizer

        tokenizer = JsonTokenizer.from_files(sentencepiece.with_json(files), vocab_size)
        tokenizer.source = "tokenizer.model"
        return tokenizer
    raise VocabularyError(
        "the model has no tokenizer: put tokenizer.json, or tokenizer_config.json and tokenmonster.vocab, next to it"
    )


def tokenizer_of(files: Mapping[str, bytes], vocab_size: int, runtime: object = None) -> Tokenizer | None:
    """The tokenizer of a model's files or, where they have none, of the runtime that opened it; None without both.

    Raises `VocabularyError` for a damaged one.
    """
    if any(name in files for name in FILES):
        return from_files(files, vocab_size)
    return runtime.own_tokenizer() if isinstance(runtime, OwnsTokenizer) else None


def parse_ids(text: str, vocab_size: int) -> list[int]:
    """The ids in `1, 2 3` or `[1, 2, 3]`. Raises `UsageError` naming a word that is not an id."""
    ids = []
    for word in text.replace(",", " ").strip("[] \n").split():
        if not word.isdecimal() or int(word) >= vocab_size:
            raise UsageError(f"{word!r} is not a token id from 0 to {vocab_size - 1}")
        ids.append(int(word))
    return ids


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each id adds to the text, in order; an unfinished character is shown with the id that completes it."""
    decoder = tokenizer.decoder()
    texts = [decoder.feed(token) for token in ids]
    if texts:
        texts[-1] += decoder.flush()
    return texts
