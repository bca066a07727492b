"""What transformers makes of a folder's tokenizer: `tokenizer.json`, changed by the files and the class beside it.

transformers does not use tokenizer.json as it is. Its `from_pretrained` adds the tokens of tokenizer_config.json,
special_tokens_map.json and added_tokens.json, `add_prefix_space` replaces that of a ByteLevel pre-tokenizer, and some
classes write their own template of BOS and EOS. This module does the same, by the rules of transformers 4.57
(tokenization_utils_base.py, tokenization_utils_fast.py and the fast tokenizers of models/).
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken

from edgekit.errors import VocabularyError
from edgekit.tokenizers.base import read_json
from edgekit.utils.guard import is_panic

LONGEST_TOKEN = 4096
ATTRIBUTES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The named special tokens, in the order in which transformers adds missing ones."""


@dataclass(frozen=True)
class Rule:
    """What a class of tokenizers does beyond `PreTrainedTokenizerFast`."""

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Special tokens that it has even if no file names them."""
    template: bool = False
    """Whether it ignores the template in tokenizer.json, and writes one by add_bos_token and add_eos_token."""
    add_bos: bool = False
    """The default of add_bos_token."""
    prefix_space: bool = True
    """Whether `add_prefix_space` (by default false) replaces the ByteLevel pre-tokenizer's own."""
    additional: tuple[str, ...] = ()
    """Special tokens besides the named ones."""


_ENDOFTEXT = "<|endoftext|>"
_LLAMA = Rule({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, True, True, prefix_space=False)
_GPT2 = {"bos_token": _ENDOFTEXT, "eos_token": _ENDOFTEXT, "unk_token": _ENDOFTEXT}
RULES = {
    "LlamaTokenizer": _LLAMA,
    "CodeLlamaTokenizer": dataclasses.replace(
        _LLAMA, prefix_space=True, additional=("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")
    ),
    "GemmaTokenizer": Rule(
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}, True, True
    ),
    "CohereTokenizer": Rule(
        {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>"}, True, True
    ),
    "GPTNeoXTokenizer": Rule(_GPT2, True),
    "GPT2Tokenizer": Rule(_GPT2),
    "Qwen2Tokenizer": Rule({"eos_token": _ENDOFTEXT, "unk_token": _ENDOFTEXT, "pad_token": _ENDOFTEXT}),
    "PreTrainedTokenizer": Rule(),
}
BY_MODEL_TYPE = {"llama": "LlamaTokenizer", "mistral": "LlamaTokenizer"}


@dataclass(frozen=True)
class Loaded:
    """A tokenizer.json as transformers has it in memory, limited to the ids that the model has rows for."""

    data: bytes
    prefix: tuple[int, ...]
    """Ids before a text: BOS, if the tokenizer adds one."""
    suffix: tuple[int, ...]
    """Ids after a text: EOS, if the tokenizer adds one."""
    without_rows: tuple[str, ...]
    """Added tokens whose ids are outside the embedding: transformers reads past it there, edgekit ignores them."""


def class_of(files: Mapping[str, bytes]) -> str | None:
    """The tokenizer's class, without `Fast`; None if neither file names one nor config.json has a known model_type.

    An unknown class, at which transformers stops, counts as `PreTrainedTokenizer`.
    """
    config = read_json(files, "config.json")
    name = read_json(files, "tokenizer_config.json").get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(name, str):
        return BY_MODEL_TYPE.get(str(config.get("model_type")))
    name = name.removesuffix("Fast")
    return name if name in RULES else "PreTrainedTokenizer"


def class_rule(files: Mapping[str, bytes]) -> Rule:
    """The rule of the tokenizer's class."""
    return RULES[class_of(files) or "PreTrainedTokenizer"]


def load(files: Mapping[str, bytes], vocab_size: int) -> Loaded:
    """The tokenizer of a model whose embedding has `vocab_size` rows.

    Raises `VocabularyError` for a damaged file, and for a vocabulary larger than the embedding.
    """
    library = open_library(files["tokenizer.json"])
    values = read_json(files, "tokenizer.json")
    config = read_json(files, "tokenizer_config.json")
    name = class_of(files)
    rule = class_rule(files)
    defaults = dict(rule.names)
    if not config.get("tokenizer_class"):
        # Without a class in the files, transformers adds Llama's <s> even to a vocabulary without one, as a new token
        # that no model was trained with. That is not followed.
        defaults = {key: text for key, text in defaults.items() if library.token_to_id(text) is not None}
    names = defaults | named_tokens(files)
    changed = _add_tokens(library, files, names, rule)
    if changed:
        # The library never takes a token out of its set of special ones, which the serialized flag forgets.
        special = {token["content"] for token in values.get("added_tokens") or [] if token.get("special")}
        values = json.loads(library.to_str())
        for token in values["added_tokens"]:
            token["special"] |= token["content"] in special
    if name is not None:
        changed |= _set_prefix_space(values, config, rule)
    without_rows = _drop(values, vocab_size)
    prefix, suffix = _template(library)
    adds = {key: config.get(f"add_{key}_token") for key in ("bos", "eos")}
    if rule.template:
        add_bos = rule.add_bos if "add_bos_token" not in config else bool(adds["bos"])
        prefix = _ids_of(library, names.get("bos_token")) if add_bos else ()
        suffix = _ids_of(library, names.get("eos_token")) if adds["eos"] else ()
    elif name is None and adds["bos"] is not None:
        # transformers does not load such a folder; llama.cpp's converter takes the key at its word.
        from edgekit.tokenizers.base import configured_ids

        bos = _ids_of(library, names.get("bos_token")) or tuple(configured_ids(files, "bos_token_id")[:1])
        prefix = bos if adds["bos"] is True else ()
    return Loaded(
        json.dumps(values).encode() if changed or without_rows else files["tokenizer.json"],
        tuple(id for id in prefix if id < vocab_size),
        tuple(id for id in suffix if id < vocab_size),
        without_rows,
    )


def named_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    """The special tokens that the files name, such as `eos_token`; "" where a file says that there is none.

    special_tokens_map.json counts before tokenizer_config.json, but not at all if that has an added_tokens_decoder.
    """
    return {key: text for key, value in _sources(files).items() if (text := _content(value)) is not None}


def _sources(files: Mapping[str, bytes]) -> dict[str, Any]:
    config = read_json(files, "tokenizer_config.json")
    found = {key: config[key] for key in ATTRIBUTES if key in config}
    if "added_tokens_decoder" not in config:
        special = read_json(files, "special_tokens_map.json")
        found |= {key: special[key] for key in ATTRIBUTES if key in special}
    return found


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return "" if value is None else value if isinstance(value, str) else None


def _additional(files: Mapping[str, bytes]) -> Iterator[object]:
    config = read_json(files, "tokenizer_config.json")
    for values in (config, {} if "added_tokens_decoder" in config else read_json(files, "special_tokens_map.json")):
        listed = values.get("additional_special_tokens")
        yield from listed if isinstance(listed, list) else []
    extra = config.get("extra_special_tokens")
    yield from extra.values() if isinstance(extra, dict) else []


def _add_tokens(
    library: tokenizers.Tokenizer, files: Mapping[str, bytes], names: Mapping[str, str], rule: Rule
) -> bool:
    """Add the files' tokens to the library's, as `PreTrainedTokenizerFast.__init__` does; whether any was new."""
    config = read_json(files, "tokenizer_config.json")
    table: dict[int, AddedToken] = {}
    existing = library.get_added_tokens_decoder()
    if isinstance(listed := config.get("added_tokens_decoder"), dict):
        entries = [(str(id), _token(value)) for id, value in listed.items()]
        table = {int(id): token for id, token in entries if id.isdecimal() and token is not None}
    else:
        special_texts = {*names.values(), *(text for value in _additional(files) if (text := _content(value)))}
        for text, id in read_json(files, "added_tokens.json").items():
            if isinstance(id, int) and text:
                special = text in special_texts
                table[id] = AddedToken(text, normalized=not special, special=special)
        table |= existing
    # A special token has the flags of its entry in the table, otherwise its own; as a string, those of plain text.
    by_text = {token.content: token for token in table.values()}
    special_tokens: dict[str, AddedToken | str] = {}
    listed_values = _sources(files)
    for key in ATTRIBUTES:
        if key not in listed_values and (text := names.get(key)):  # the class's own
            special_tokens.setdefault(text, text)
        elif text := _content(value := listed_values.get(key)):
            special_tokens.setdefault(text, by_text.get(text) or _token(value) or text)
    for value in (*_additional(files), *rule.additional):
        if text := _content(value):
            special_tokens.setdefault(text, _token(value) or text)
    adding = [token for _, token in sorted(table.items(), key=lambda item: item[0])]
    known = {token.content for token in (*existing.values(), *adding)}
    present = {_flags(token) for token in adding}
    for text, special_token in special_tokens.items():
        if isinstance(special_token, AddedToken):
            adding += [special_token] if _flags(special_token) not in present else []
        elif text not in known:
            adding.append(AddedToken(text, special=True))
    for token in adding:
        token.special = token.special or token.content in special_tokens
    present = {_flags(token) for token in existing.values()}
    if all(_flags(token) in present for token in adding):
        return False
    if any(len(token.content) > LONGEST_TOKEN for token in adding):  # the library would take minutes
        raise VocabularyError(f"a special token has more than {LONGEST_TOKEN} characters: the files are damaged")
    library.add_tokens(adding)
    return True


def _token(value: object) -> AddedToken | None:
    if not isinstance(value, dict) or not isinstance(text := value.get("content"), str):
        return None
    flags = {key: value[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special")
             if isinstance(value.get(key), bool)}  # fmt: skip
    return AddedToken(text, **flags)


def _flags(token: AddedToken) -> tuple[str | bool, ...]:
    return token.content, token.single_word, token.lstrip, token.rstrip, token.normalized, token.special


def _set_prefix_space(values: dict[str, Any], config: Mapping[str, Any], rule: Rule) -> bool:
    """Apply `add_prefix_space` to the JSON; whether that changed it."""
    requested, part = config.get("add_prefix_space"), values.get("pre_tokenizer")
    if rule.prefix_space:
        if not isinstance(part, dict) or part.get("type") != "ByteLevel":
            return False  # a Sequence stays as it is, a Metaspace has no such key
        wanted = requested if "add_prefix_space" in config else False
        if not isinstance(wanted, bool) or part.get("add_prefix_space") == wanted:
            return False
        part["add_prefix_space"] = wanted
        return True
    if isinstance(requested, bool) and values.get("model", {}).get("byte_fallback"):
        return set_sentencepiece_space(values, requested, config.get("legacy") is not False)
    return False


def set_sentencepiece_space(values: dict[str, Any], space: bool, legacy: bool) -> bool:
    """Normalizer, pre-tokenizer and decoder of a Llama tokenizer that is made from tokenizer.model (LlamaConverter).

    transformers does that for a folder without tokenizer.json, and for one with its own `add_prefix_space`. `values`
    is the JSON of tokenizer.json; returns whether it changed.
    """
    before = json.dumps(values)
    if legacy:
        prepend = [{"type": "Prepend", "prepend": "▁"}] if space else []
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        values["normalizer"] = {"type": "Sequence", "normalizers": [*prepend, replace]}
        values["pre_tokenizer"] = None
    else:
        scheme = "first" if space else "never"
        values["normalizer"] = None
        values["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    values["decoder"] = decoder(space)
    return json.dumps(values) != before


def decoder(space: bool) -> dict[str, Any]:
    """The decoder of a tokenizer.json made from tokenizer.model; with `space` a text loses one space at its start."""
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space else []
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}


def _drop(values: dict[str, Any], vocab_size: int) -> tuple[str, ...]:
    """Remove the added tokens that have no row: a `[PAD]` of fine-tuning, for which nothing was resized."""
    added = values.get("added_tokens") or []
    vocab = values.get("model", {}).get("vocab", {})
    texts = set(vocab) if isinstance(vocab, dict) else {entry[0] for entry in vocab}
    lost = [t for t in added if t["id"] >= vocab_size and t["content"] not in texts]
    if lost:
        values["added_tokens"] = [token for token in added if token not in lost]
    return tuple(token["content"] for token in lost)


def _ids_of(library: tokenizers.Tokenizer, text: str | None) -> tuple[int, ...]:
    id = library.token_to_id(text) if text else None
    return () if id is None else (id,)


def _template(library: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the file's own post-processor puts before and after a text."""
    for text in ("a", ".", "1"):
        plain = library.encode(text, add_special_tokens=False).ids
        whole = library.encode(text, add_special_tokens=True).ids
        for at in range(len(whole) - len(plain) + 1 if plain else 0):
            if whole[at : at + len(plain)] == plain:
                return tuple(whole[:at]), tuple(whole[at + len(plain) :])
    return (), ()


def version5_frame(files: Mapping[str, bytes]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The ids that transformers 5 puts before and after a text; None for classes whose pipeline it replaces.

    It ignores add_bos_token and add_eos_token beside a tokenizer.json (tests/test_transformers5.py). Raises
    `VocabularyError` for a damaged file.
    """
    if "tokenizer.json" not in files:
        return None
    name = class_of(files)
    if name == "GPTNeoXTokenizer":
        return (), ()
    if name not in (None, "LlamaTokenizer", "PreTrainedTokenizer", "GPT2Tokenizer"):
        return None
    return _template(open_library(files["tokenizer.json"]))


def open_library(data: bytes) -> tokenizers.Tokenizer:
    """The `tokenizers` library's object for a tokenizer.json, set to read special tokens in text as text.

    Raises `VocabularyError` if it cannot be read.
    """
    try:
        library = tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:  # the library raises plain Exception, and panics with one that is none
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise VocabularyError(f"tokenizer.json cannot be read: {' '.join(str(error).split())}") from error
    # A file may contain the settings of its training run; a prompt must not be cut or padded.
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library
