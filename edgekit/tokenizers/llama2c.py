"""llama2.c's `tokenizer.bin`: a score and the bytes of each token, of a SentencePiece BPE with bytes at ids 3 to 258.

    int32 bytes of the longest token, then for each token: float32 score, int32 length, bytes

Spaces are spaces there, not `▁`, and BOS and EOS have line breaks around them. run.c joins the pair of neighbours
whose token has the best score, as SentencePiece and llama.cpp do.
"""

import json
import struct
from collections.abc import Mapping, Sequence

from edgekit.errors import VocabularyError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.llama2c import BOS, EOS
from edgekit.tokenizers import sentencepiece, transformers_rules
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.llamacpp import bpe, spm
from edgekit.tokenizers.llamacpp.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, specials
from edgekit.tokenizers.sample_texts import COUNT, sample_texts

FIRST_BYTE = 3
NAMES = {0: "<unk>", BOS: "<s>", EOS: "</s>"}
BYTES = {FIRST_BYTE + byte: f"<0x{byte:02X}>" for byte in range(256)}


def read(data: bytes, rows: int, where: object) -> list[tuple[bytes, float]]:
    """The tokens of a file, and their scores.

    Args:
        rows: of the model's embedding: the file does not say how many tokens it has.

    Raises:
        VocabularyError: another number of tokens, or another format.
    """
    at, tokens = 4, list[tuple[bytes, float]]()
    while at < len(data):
        if at + 8 > len(data):
            raise VocabularyError(f"{where} is not a tokenizer.bin of llama2.c: it ends inside a token")
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= len(data) - at or score != score:
            raise VocabularyError(f"{where} is not a tokenizer.bin of llama2.c: token {len(tokens)} has no end")
        tokens.append((data[at : at + length], score))
        at += length
    if len(tokens) != rows:
        raise VocabularyError(f"{where} has {len(tokens)} tokens, and the model {rows}: it is another model's")
    return tokens


def files(tokens: Sequence[tuple[bytes, float]], config: LlamaConfig, where: object) -> dict[str, bytes]:
    """`tokenizer.json`, `tokenizer_config.json` and `generation_config.json` of a model.

    Raises:
        VocabularyError: tokens that are not UTF-8 or occur twice, or bytes elsewhere than run.c has them.
    """
    texts = _texts(tokens, where)
    scores = {text: score for text, (_, score) in zip(texts, tokens, strict=True)}
    fixed = NAMES | BYTES
    normal = {text: id for id, text in enumerate(texts) if id not in fixed}
    options = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": NAMES[BOS], "type_id": 0}}
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": text, **options} for id, text in NAMES.items()],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {NAMES[BOS]: {"id": NAMES[BOS], "ids": [BOS], "tokens": [NAMES[BOS]]}},
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": NAMES[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: id for id, text in enumerate(texts)},
            "merges": sentencepiece.merges(normal, {text: scores[text] for text in normal}),
        },
    }
    transformers_rules.set_sentencepiece_space(values, space=True, legacy=True)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_position_embeddings}
    settings |= {"clean_up_tokenization_spaces": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ends = {"bos_token_id": BOS, "eos_token_id": list(config.eos_token_id)}
    return {
        "tokenizer.json": json.dumps(values, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
        "generation_config.json": json.dumps(ends, indent=2).encode(),
    }


def _texts(tokens: Sequence[tuple[bytes, float]], where: object) -> list[str]:
    """The tokens as SentencePiece spells them, all different."""
    texts = []
    for id, (data, _) in enumerate(tokens):
        try:
            text = data.decode().replace(" ", "▁")
        except UnicodeDecodeError as error:
            raise VocabularyError(f"{where}: token {id} is not UTF-8: {data[:20]!r}") from error
        # Older files have the byte itself.
        if id in BYTES and text not in (BYTES[id], chr(id - FIRST_BYTE), chr(id - FIRST_BYTE).replace(" ", "▁")):
            raise VocabularyError(f"{where}: token {id} is {data[:20]!r}, where run.c has the byte {BYTES[id]}")
        texts.append(NAMES.get(id) or BYTES.get(id) or text)
    if len(texts) <= max(BYTES):
        raise VocabularyError(f"{where} has {len(texts)} tokens, fewer than run.c needs for the bytes")
    if len(set(texts)) < len(texts):
        twice = next(text for id, text in enumerate(texts) if text in texts[:id])
        raise VocabularyError(f"{where}: the token {twice!r} occurs twice")
    return texts


def written(files: Mapping[str, bytes], config: LlamaConfig, tokenizer: Tokenizer) -> tuple[bytes, list[str]]:
    """A `tokenizer.bin` for a model's tokenizer, and notes on what run.c will do differently.

    Raises:
        VocabularyError: run.c cannot have this tokenizer; says why.
    """
    if "tokenizer.json" not in files:
        raise _refused("a TokenMonster vocabulary")
    made = bpe.tokens(files, specials(files, config))
    if made.model != "llama" or made.scores is None:
        raise _refused("a tokenizer other than SentencePiece's BPE with bytes for what has no token")
    if not made.add_space_prefix:
        raise _refused("a tokenizer that puts no space before a text")
    kinds = {UNKNOWN: "unknown", CONTROL: "special", USER_DEFINED: "added", NORMAL: "ordinary"}
    for id, name in BYTES.items():
        if made.types[id : id + 1] != [BYTE] or made.texts[id] != name.encode():
            kind = kinds.get(made.types[id], "unused") if id < len(made.types) else "missing"
            raise _refused(f"a tokenizer whose id {id} is {kind}, where it has the byte {name}")
    if tokenizer.bos != BOS:
        raise _refused(f"a BOS of id {tokenizer.bos} (it has {BOS})")
    texts = [text.replace("▁".encode(), b" ") for text in made.texts]
    texts[BOS], texts[EOS] = b"\n<s>\n", b"\n</s>\n"
    data = [struct.pack("<i", max(map(len, texts)))]
    for text, score in zip(texts, made.scores, strict=True):
        data += [struct.pack("<fi", score, len(text)), text]
    notes = []
    if BOS not in tokenizer.stop:
        notes.append("run.c ends a text at BOS only, this model elsewhere: run.c will continue")
    ids = {text.decode("utf-8", "replace"): id for id, text in enumerate(made.texts)}
    scores = dict(zip(ids, made.scores, strict=False))
    differs = [
        text
        for text in sample_texts()
        if text and spm.encode(_spaced(text), ids, scores, None) != tokenizer.encode(text)
    ]
    if differs:
        notes.append(f"run.c splits {len(differs)} of {COUNT} texts differently, e.g. {differs[0]!r:.60}")
    return b"".join(data), notes


def _spaced(text: str) -> str:
    return f" {text}".replace(" ", "▁")


def _refused(what: str) -> VocabularyError:
    return VocabularyError(f"llama2.c's run.c cannot have {what}: convert to gguf instead (--to gguf)")
