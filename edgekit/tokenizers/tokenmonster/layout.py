"""Where a model has its special tokens: above a TokenMonster vocabulary, inside it, or below it.

Stentor2 appends EOS and BOS to the vocabulary's ids. Stentor3 takes four of them away. Other adapters put the special
tokens first, ids 0 to k - 1, and add k to every id of the vocabulary. TokenMonster's file format allows ids that no
token has, so such a model is read, and written to artefacts, with a vocabulary whose own ids begin at k.
"""

import json
from collections.abc import Mapping
from typing import Any

from edgekit.tokenizers.base import configured_ids, read_json, spelling
from edgekit.tokenizers.tokenmonster.vocab_file import NONE
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

VOCAB_FILE = "tokenmonster.vocab"
OFFSETS = ("offset", "id_offset", "token_offset", "vocab_offset")
"""Keys of tokenizer_config.json that name the number."""
TOKENS = ("pad_token", "bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
UNSET = {"bos_token": 1, "eos_token": 2}
"""transformers' Llama defaults, which it writes where no id was set."""
MOST_SPECIALS, PADDED = 64, 64


def added_ids(config: Mapping[str, Any], token: str) -> list[int]:
    """Ids that transformers' `added_tokens_decoder` table gives to this spelling."""
    return [id for id, text in _table(config).items() if token and text == token]


def below(vocabulary: Vocabulary) -> int:
    """How many ids come before the vocabulary's own."""
    return next((id for id in range(vocabulary.table_size) if vocabulary.base_bytes(id)), 0)


def offset(files: Mapping[str, bytes], vocabulary: Vocabulary, rows: int) -> int:
    """The number that a model adds to the vocabulary's ids; 0 if its special tokens are elsewhere.

    tokenizer_config.json may name it. Otherwise the named tokens must have the ids 0 to k - 1, each another spelling
    than the id's own text, and the embedding must have k rows more than the vocabulary: exactly, or, where
    `added_tokens_decoder` lists the ids, at least.
    """
    config = read_json(files, "tokenizer_config.json")
    if below(vocabulary):
        return 0  # an artefact's: already shifted
    for key in OFFSETS:
        if isinstance(by := config.get(key), int) and 0 < by <= rows - vocabulary.table_size:
            return by
    names = named(files, config)
    count, spare = len(names), rows - vocabulary.table_size
    if not 1 < count <= spare or sorted(names) != list(range(count)) or len(set(names.values())) != count:
        return 0
    if any(vocabulary.decode([id]) == text for id, text in names.items()):
        return 0
    if spare == count or set(_table(config)) >= set(names):
        return count
    return spare if spare <= MOST_SPECIALS and rows % PADDED else 0  # further special tokens, without names


def named(files: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[int, str]:
    """Every special id that the files name, with its spelling."""
    names = _table(config)
    listed = frozenset(names.values())
    for key in TOKENS:
        token = spelling(files, key)
        ids = configured_ids(files, f"{key}_id") if token and token not in listed else []
        for id in ids:
            if len(ids) == 1 or id != UNSET.get(key):
                names.setdefault(id, token)
    return names


def _table(config: Mapping[str, Any]) -> dict[int, str]:
    table = config.get("added_tokens_decoder")
    entries = table.items() if isinstance(table, dict) else ()
    return {
        int(id): str(entry["content"])
        for id, entry in entries
        if str(id).isdecimal() and isinstance(entry, dict) and entry.get("content")
    }


def shifted(vocabulary: Vocabulary, by: int) -> Vocabulary:
    """The same vocabulary with `by` added to every id."""

    def moved(id: int) -> int:
        return id if id == NONE else id + by

    return Vocabulary(
        capcode=vocabulary.capcode,
        charset=vocabulary.charset,
        normalization=vocabulary.normalization,
        mode=vocabulary.mode,
        reserve=vocabulary.reserve,
        unk=moved(vocabulary.unk),
        table_size=vocabulary.table_size + by,
        delete_token=moved(vocabulary.delete_token),
        records=[record._replace(id=record.id + by) for record in vocabulary.records],
        follow=vocabulary.follow,
        deleted=[token._replace(id=moved(token.id)) for token in vocabulary.deleted],
        unused=vocabulary.unused,
        name=vocabulary.name,
    )


def with_own_ids(files: Mapping[str, bytes], rows: int) -> dict[str, bytes]:
    """The files of a TokenMonster model as artefacts carry them: the vocabulary has the model's ids.

    Raises `VocabularyError` for a damaged vocabulary.
    """
    out = dict(files)
    if VOCAB_FILE not in files:
        return out
    vocabulary = Vocabulary.from_bytes(files[VOCAB_FILE], VOCAB_FILE)
    if by := offset(files, vocabulary, rows):
        config = {k: v for k, v in read_json(files, "tokenizer_config.json").items() if k not in OFFSETS}
        out[VOCAB_FILE] = shifted(vocabulary, by).to_bytes()
        out["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"
    return out
