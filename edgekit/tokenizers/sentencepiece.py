"""`tokenizer.model` alone: the `tokenizer.json` that transformers makes of a SentencePiece model.

transformers' AutoTokenizer converts such a file when it loads a folder without tokenizer.json (LlamaConverter and
GemmaConverter in convert_slow_tokenizer.py, version 4.57). Here the same is built once, and every artefact carries the
result, so only reading the folder itself needs the package `sentencepiece` (extra of that name).
"""

import json
from collections.abc import Mapping
from typing import Any

from edgekit.errors import MissingExtraError, VocabularyError
from edgekit.tokenizers import transformers_rules
from edgekit.tokenizers.base import read_json
from edgekit.utils.registry import install_command

MODEL, JSON = "tokenizer.model", "tokenizer.json"
UNIGRAM, BPE = 1, 2  # sentencepiece_model.proto, TrainerSpec.ModelType
CONTROL, USER_DEFINED = 3, 4  # the same file, SentencePiece.Type


def with_json(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a model, with a tokenizer.json if its tokenizer is tokenizer.model alone.

    Raises:
        VocabularyError: tokenizer.model is damaged, or of SentencePiece's kinds `word` and `char`.
        MissingExtraError: the package that reads it is not installed.
    """
    if not alone(files):
        return dict(files)
    return {**files, JSON: json.dumps(converted(files), ensure_ascii=False).encode()}


def alone(files: Mapping[str, bytes]) -> bool:
    """Whether tokenizer.model is a model's only tokenizer."""
    return MODEL in files and JSON not in files and "tokenmonster.vocab" not in files


def read(data: bytes) -> Any:
    """The SentencePiece model as a protobuf message, sentencepiece_model_pb2.ModelProto. Raises as `with_json`."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        missing = "protobuf" if (error.name or "").startswith("google") else "sentencepiece"
        command = install_command("sentencepiece")
        raise MissingExtraError(f"{MODEL} needs {missing}, which is not installed: {command}") from error
    except Exception as error:  # protobuf's VersionError, a plain Exception
        raise MissingExtraError(
            f"{MODEL} needs a newer protobuf than the installed one: pip install --upgrade protobuf"
        ) from error
    definitions: Any = sentencepiece_model_pb2
    model = definitions.ModelProto()
    try:
        model.ParseFromString(data)
        "".join(piece.piece for piece in model.pieces).encode()
    except Exception as error:  # google.protobuf's DecodeError, and UnicodeDecodeError
        raise VocabularyError(f"{MODEL} is not a whole SentencePiece model") from error
    if not model.pieces:
        raise VocabularyError(f"{MODEL} has no pieces")
    return model


def scores(files: Mapping[str, bytes]) -> dict[bytes, float]:
    """The score of each piece of tokenizer.model; empty if there is none, or the package that reads it is missing."""
    try:
        return {p.piece.encode(): float(p.score) for p in read(files[MODEL]).pieces} if MODEL in files else {}
    except MissingExtraError:
        return {}


def converted(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of tokenizer.json. Raises as `with_json`."""
    model = read(files[MODEL])
    gemma = transformers_rules.class_of(files) == "GemmaTokenizer"
    vocab = [(piece.piece, float(piece.score)) for piece in model.pieces]
    vocab[:3] = [(text, 0.0) for text in _first(files, vocab, gemma)]
    added = [
        {
            "id": id,
            "content": piece.piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.type == CONTROL or (gemma and piece.piece in ("<start_of_turn>", "<end_of_turn>")),
        }
        for id, piece in enumerate(model.pieces)
        if piece.type in (CONTROL, USER_DEFINED)
    ]
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": _template(files, model),
        "model": _model(model, vocab, gemma),
    }
    if gemma:
        space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        values |= {"normalizer": space, "pre_tokenizer": None, "decoder": transformers_rules.decoder(False)}
        return values
    # The other classes (CodeLlama's) have neither setting.
    config = {} if transformers_rules.class_rule(files).prefix_space else read_json(files, "tokenizer_config.json")
    space_first = config.get("add_prefix_space") is not False
    transformers_rules.set_sentencepiece_space(values, space_first, config.get("legacy") is not False)
    return values


def _template(files: Mapping[str, bytes], model: Any) -> dict[str, Any] | None:
    """BOS before a text, for a class that transformers does not load from tokenizer.model and that has no template of
    its own: as LlamaTokenizer and llama.cpp do."""
    bos = model.trainer_spec.bos_id
    add = read_json(files, "tokenizer_config.json").get("add_bos_token", True)
    if transformers_rules.class_rule(files).template or not add or not 0 <= bos < len(model.pieces):
        return None
    text = model.pieces[bos].piece
    single = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
    }


def _first(files: Mapping[str, bytes], vocab: list[tuple[str, float]], gemma: bool) -> list[str]:
    """The names of ids 0 to 2, which the converters take from the configuration."""
    names = {**transformers_rules.class_rule(files).names, **transformers_rules.named_tokens(files)}
    if gemma:
        return [names[f"{key}_token"] for key in ("pad", "eos", "bos")]
    table = read_json(files, "tokenizer_config.json").get("added_tokens_decoder")
    table = table if isinstance(table, dict) else {}
    entries = [table.get(str(id)) for id in range(min(3, len(vocab)))]
    return [
        str(entry["content"]) if isinstance(entry, dict) and entry.get("content") else text
        for entry, (text, _) in zip(entries, vocab, strict=False)
    ]


def _model(model: Any, vocab: list[tuple[str, float]], gemma: bool) -> dict[str, Any]:
    kind = model.trainer_spec.model_type
    if kind == UNIGRAM:
        return {"type": "Unigram", "unk_id": 3 if gemma else 0, "vocab": vocab, "byte_fallback": True}
    if kind != BPE:
        name = {3: "word", 4: "char"}.get(kind, str(kind))
        raise VocabularyError(f"{MODEL} is of SentencePiece's kind {name!r}: only bpe and unigram are supported")
    ids = {piece.piece: id for id, piece in enumerate(model.pieces)}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.trainer_spec.unk_piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {text: id for id, (text, _) in enumerate(vocab)},
        "merges": merges(ids, dict(vocab)),
    }


def merges(ids: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, in the order in which SentencePiece joins them: the best score first."""
    found = []
    for text, score in scores.items():
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, left, right) for left, right in pairs]
    found.sort(key=lambda each: (each[0], len(each[1]), len(each[2])), reverse=True)
    return [(left, right) for _, left, right in found]
