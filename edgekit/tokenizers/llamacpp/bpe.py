"""Ordinary tokenizers as llama.cpp's `llama` (SentencePiece) and `gpt2` (byte-level BPE) vocabularies."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.errors import VocabularyError
from edgekit.tokenizers import sentencepiece, transformers_rules
from edgekit.tokenizers.base import read_json
from edgekit.tokenizers.llamacpp.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Specials,
    Tokens,
)

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# The regex of a `Split` in tokenizer.json -> llama.cpp's name for the same (llama-vocab.cpp, llm_tokenizer_bpe).
SPLITS = {
    GPT2: "gpt-2",
    CONTRACTIONS + "|" + _LEAD + r"\p{L}+|\p{N}{1,3}" + _TAIL: "llama-bpe",
    CONTRACTIONS + "|" + _LEAD + r"\p{L}+|\p{N}" + _TAIL: "qwen2",
    f"{_LEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{_LEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?|\\p{{N}}{{1,3}}{_CASED_TAIL}": (
        "gpt-4o"
    ),
    f"{_LEAD}{UPPER}*{LOWER}+|{_LEAD}{UPPER}+{LOWER}*|\\p{{N}}{_CASED_TAIL}": "tekken",
}

IGNORES_MERGES = frozenset(
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano tekken".split()
)
"""The names with which llama.cpp takes a word that is a token as it is, whatever the merges."""

UNSURE = "llama.cpp knows no pre-tokenizer like this one's ({what}): stock programs may split otherwise than edgekit"


def tokens(files: Mapping[str, bytes], special: Specials) -> Tokens:
    """The vocabulary as llama.cpp reads it; of kind `none`, with a note, if llama.cpp does not support it.

    Raises `VocabularyError` for damaged files, and for more tokens than the embedding has rows.
    """
    if "tokenizer.json" not in files:
        return _nothing("a model without tokenizer files")
    read_json(files, "tokenizer.json")
    values = json.loads(transformers_rules.load(files, special.rows).data)
    model = values.get("model")
    if not isinstance(model, dict):
        raise VocabularyError("tokenizer.json has no model")
    kind = model.get("type", "BPE")
    if kind == "Unigram":
        try:
            return _finished(_t5(values, model), values, special)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise VocabularyError(f"tokenizer.json is damaged: {type(error).__name__} {error}") from error
    if kind != "BPE":
        return _nothing(f"a {kind} tokenizer")
    try:
        if model.get("byte_fallback"):
            return _finished(_llama(values, model, sentencepiece.scores(files)), values, special)
        if "ByteLevel" in {p.get("type") for p in (*_parts(values, "pre_tokenizer"), *_parts(values, "decoder"))}:
            return _finished(_gpt2(values, model), values, special)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise VocabularyError(f"tokenizer.json is damaged: {type(error).__name__} {error}") from error
    return _nothing("a BPE tokenizer without byte tokens")


def _finished(made: Tokens, values: dict[str, Any], special: Specials) -> Tokens:
    made.notes.extend(_notes_on_added_tokens(values))
    return _padded(made, special, "tokenizer.json")


def _nothing(what: str) -> Tokens:
    return Tokens("none", notes=[f"llama.cpp has nothing like {what}: stock programs cannot show this model's text"])


def _llama(values: dict[str, Any], model: dict[str, Any], known: Mapping[bytes, float]) -> Tokens:
    """`known`: the scores of tokenizer.model, if it is there."""
    texts, types = _vocabulary(values, model)
    for id, text in enumerate(texts):
        if types[id] == NORMAL and len(text) == 6 and text.startswith(b"<0x"):
            types[id] = BYTE
        elif text.decode("utf-8", "replace") == model.get("unk_token"):
            types[id] = UNKNOWN
    notes = []
    plain = {"Prepend": ("prepend", "▁"), "Replace": ("content", "▁")}
    if others := [part.get("type") for part in _parts(values, "normalizer") if not _is(part, plain)]:
        notes.append(f"this tokenizer normalises a text ({', '.join(map(str, others))}), llama.cpp does not")
    if known and all(text in known for text, kind in zip(texts, types, strict=True) if kind == NORMAL):
        scores = [known.get(text, 0.0) for text in texts]
    else:
        # llama.cpp joins the pair whose token has the best score, here the one whose merge is first. That is the same
        # if every pair that makes a token is among the merges, which is true for those that SentencePiece trained.
        rank: dict[bytes, int] = {}
        for position, (left, right) in enumerate(_merges(model)):
            rank.setdefault((left + right).encode(), position)
        worst = len(rank) + 1.0
        scores = [-float(rank.get(t, worst)) if k == NORMAL else 0.0 for t, k in zip(texts, types, strict=True)]
        halves = {(left, right) for left, right in _merges(model)}
        if _unlisted(texts, types, halves):
            notes.append("llama.cpp merges by score, not by rank: stock programs may split otherwise than edgekit")
    return Tokens("llama", texts, types, scores, add_space_prefix=_prefixes_space(values), notes=notes)


def _t5(values: dict[str, Any], model: dict[str, Any]) -> Tokens:
    """A Unigram tokenizer: llama.cpp's `t5` finds the best path, too, but has no bytes for what has no token."""
    entries = [(str(text), float(score)) for text, score in model["vocab"]]
    texts, types = _vocabulary(values, model | {"vocab": {text: id for id, (text, _) in enumerate(entries)}})
    scores = [score for _, score in entries] + [0.0] * (len(texts) - len(entries))
    unk = model.get("unk_id")
    bytewise = False
    for id, text in enumerate(texts):
        if types[id] == NORMAL and len(text) == 6 and text.startswith(b"<0x"):
            types[id], bytewise = BYTE, True
    notes = []
    if unk is not None:
        types[unk] = UNKNOWN
    if bytewise and model.get("byte_fallback"):
        notes.append(
            "llama.cpp reads a character without a token as the unknown one, this tokenizer as bytes: stock programs "
            "may split otherwise than edgekit"
        )
    made = Tokens("t5", texts, types, scores, unk=unk, add_space_prefix=_prefixes_space(values), notes=notes)
    for part in _parts(values, "normalizer"):
        kind, pattern = part.get("type"), part.get("pattern", {})
        if kind == "Precompiled":
            made.charsmap = base64.b64decode(part.get("precompiled_charsmap") or "")
        elif kind == "Replace" and pattern.get("Regex") == " {2,}":
            made.joins_spaces = True
        elif kind not in ("Prepend", "Strip") and not (kind == "Replace" and pattern.get("String") == " "):
            notes.append("this tokenizer normalises a text, llama.cpp does not")
    if any(part.get("type") != "Metaspace" for part in _parts(values, "pre_tokenizer")):
        notes.append(UNSURE.format(what=" + ".join(str(p.get("type")) for p in _parts(values, "pre_tokenizer"))))
    return made


def _is(part: dict[str, Any], known: Mapping[str, tuple[str, str]]) -> bool:
    """Whether a component is one of these types with this value."""
    name, value = known.get(str(part.get("type")), ("", None))
    return value is not None and part.get(name) == value


def _notes_on_added_tokens(values: dict[str, Any]) -> Iterator[str]:
    """What added tokens ask for that a GGUF cannot say."""
    for option, what in (
        ("lstrip", "takes the white space before it"),
        ("rstrip", "takes the white space after it"),
        ("single_word", "is only found as a whole word"),
    ):
        if names := [token["content"] for token in values.get("added_tokens") or [] if token.get(option)]:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"the added token {names[0]!r}{more} {what} ({option}), in stock llama.cpp programs not"


def _unlisted(texts: list[bytes], types: list[int], merges: set[tuple[str, str]]) -> bool:
    """Whether a token can also be made by a pair that is not a merge."""
    normal = {t.decode("utf-8", "replace") for t, k in zip(texts, types, strict=True) if k == NORMAL}
    pairs = ((t[:i], t[i:]) for t in normal for i in range(1, len(t)))
    return any(left in normal and right in normal and (left, right) not in merges for left, right in pairs)


def _prefixes_space(values: dict[str, Any]) -> bool:
    for part in (*_parts(values, "normalizer"), *_parts(values, "pre_tokenizer")):
        if part.get("type") == "Prepend" and part.get("prepend") == "▁":
            return True
        if part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            return bool(part.get("add_prefix_space", True))
    return False


def _gpt2(values: dict[str, Any], model: dict[str, Any]) -> Tokens:
    texts, types = _vocabulary(values, model)
    pre, notes = pre_tokenizer(values)
    pairs = list(_merges(model))
    merges = [f"{left} {right}" for left, right in pairs]
    ignores = bool(model.get("ignore_merges"))
    if pre != "default" and ignores != (pre in IGNORES_MERGES):
        made = {(left + right).encode() for left, right in pairs}
        if any(kind == NORMAL and len(t.decode()) > 1 and t not in made for t, kind in zip(texts, types, strict=True)):
            rule = "joins by the merges" if ignores else "takes a word that is a token whole"
            notes.append(
                f"some tokens are not made by the merges, and llama.cpp {rule} where this tokenizer does not: stock "
                "programs may split otherwise than edgekit"
            )
    unk = model.get("unk_token")
    return Tokens(
        "gpt2",
        texts,
        types,
        merges=merges,
        pre=pre,
        unk=texts.index(unk.encode()) if unk and unk.encode() in texts else None,
        notes=notes,
    )


def pre_tokenizer(values: dict[str, Any]) -> tuple[str, list[str]]:
    """llama.cpp's name of how a byte-level tokenizer.json splits a text into words, and notes if it is a guess."""
    parts = _parts(values, "pre_tokenizer")
    kinds = [part.get("type") for part in parts]
    notes = []
    if any(part.get("type") == "ByteLevel" and part.get("add_prefix_space") for part in parts):
        notes.append("this tokenizer puts a space before a text, llama.cpp does not")
    if values.get("normalizer") is not None:
        notes.append("this tokenizer normalises a text, llama.cpp does not")
    words = parts and parts[-1].get("type") == "ByteLevel" and parts[-1].get("use_regex", True)
    name = None
    if kinds == ["ByteLevel"] and words:
        name = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and words and parts[0].get("individual_digits"):
        name = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not words and parts[0].get("behavior") == "Isolated":
        name = SPLITS.get(parts[0].get("pattern", {}).get("Regex"))
    if name is None:
        what = " + ".join(map(str, kinds)) or "none"
        return "default", [*notes, UNSURE.format(what=what)]
    return name, notes


def _parts(values: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A tokenizer.json component as the flat list of its parts."""
    part = values.get(key)
    if not isinstance(part, dict):
        return []
    inner = next((part[k] for k in ("normalizers", "pretokenizers", "decoders", "processors") if k in part), None)
    return [part] if inner is None else [p for p in inner if isinstance(p, dict)]


def _merges(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in model.get("merges", []):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _vocabulary(values: dict[str, Any], model: dict[str, Any]) -> tuple[list[bytes], list[int]]:
    """Texts and types by id, added tokens included; ids without a token are empty and unused."""
    added = values.get("added_tokens") or []
    found = {int(id): text.encode() for text, id in model["vocab"].items()}
    count = max([*found, *(int(token["id"]) for token in added)], default=-1) + 1
    if count > 1 << 22 or min(found, default=0) < 0:
        raise VocabularyError(f"tokenizer.json has ids up to {count}")
    texts = [found.get(id, b"") for id in range(count)]
    types = [NORMAL if text else UNUSED for text in texts]
    for token in added:
        texts[token["id"]] = token["content"].encode()
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    return texts, types


def _padded(tokens: Tokens, special: Specials, where: str) -> Tokens:
    """One text for each row of the embedding, all different, specials typed as such."""
    if len(tokens.texts) > special.rows:
        raise VocabularyError(f"{where} has {len(tokens.texts)} tokens, the model's embedding {special.rows} rows")
    missing = special.rows - len(tokens.texts)
    tokens.texts += [b""] * missing
    tokens.types += [UNUSED] * missing
    if tokens.scores is not None:
        tokens.scores += [0.0] * missing
    if tokens.model == "llama" and not _lend_bytes(tokens):
        return _nothing("a SentencePiece vocabulary that lacks byte tokens")
    seen: set[bytes] = set()
    for id, text in enumerate(tokens.texts):
        if not text or text in seen:
            text = special.names.get(id, f"[PAD{id}]").encode()
            while text in seen:
                text = b"[" + text + b"]"
            tokens.texts[id], tokens.types[id] = text, UNUSED
        seen.add(text)
        if (id in special.names or id in special.stop) and tokens.types[id] != UNKNOWN:
            tokens.types[id] = CONTROL
        if tokens.types[id] == UNKNOWN and tokens.unk is None:
            tokens.unk = id
    return tokens


def _lend_bytes(tokens: Tokens) -> bool:
    """Use empty rows for missing byte tokens: llama.cpp aborts the process when it does not find one.

    False if there are too few rows.
    """
    have, free = set(tokens.texts), [i for i, text in enumerate(tokens.texts) if not text]
    for byte in range(256):
        name = b"<0x%02X>" % byte
        if name not in have and bytes([byte]) not in have:
            if not free:
                return False
            id = free.pop()
            tokens.texts[id], tokens.types[id] = name, BYTE
    return True
