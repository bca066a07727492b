"""The metadata of a GGUF file: keys that llama.cpp requires, keys that its programs use, and edgekit's own."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import edgekit.converters._gguf_package as gguf
from edgekit.errors import VocabularyError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.generation_config import defaults
from edgekit.formats.gguf_config import llama_keys
from edgekit.settings import Sampling
from edgekit.tokenizers.base import read_json
from edgekit.tokenizers.carried import carried
from edgekit.tokenizers.llamacpp import bpe, tokenmonster
from edgekit.tokenizers.llamacpp.ends import ALWAYS, ends
from edgekit.tokenizers.llamacpp.vocabulary import Tokens, specials
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

NOTE = "edgekit.tokenizer.note"


def metadata(checkpoint: Checkpoint, quant: str, file_type: int) -> tuple[dict[str, Any], list[str]]:
    """All keys of the file, in order, and notes on what stock llama.cpp programs will do differently than edgekit.

    Raises `VocabularyError` if the tokenizer's files are damaged or do not fit the embedding, `MissingExtraError` for
    tokenizer.model alone without the package that reads it.
    """
    config, files = checkpoint.config, carried(checkpoint.files, checkpoint.config.vocab_size)
    files.setdefault("config.json", json.dumps(config.to_dict(), indent=2).encode())
    tokens, notes = tokenizer_keys(files, config)
    texts, blobs = embedded.pack(files, source_sha256=checkpoint.sha256, quant=quant)
    if notes:
        texts[NOTE] = "; ".join(notes)
    keys = general_keys(checkpoint, file_type) | llama_keys(config) | sampling_keys(files, config)
    return keys | tokens | texts | blobs, notes


def general_keys(checkpoint: Checkpoint, file_type: int) -> dict[str, Any]:
    # llama.cpp looks for tokens of Phi-3 if the *name* says phi3, and does not load the file if they are missing.
    name = re.sub("(phi)-?3", r"\1 3", checkpoint.name, flags=re.IGNORECASE)
    count = sum(tensor.size for _, tensor in checkpoint)
    return {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": name,
        "general.size_label": gguf.size_label(count, count, 0, 0),
        "general.file_type": file_type,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }


def sampling_keys(files: Mapping[str, bytes], config: LlamaConfig) -> dict[str, Any]:
    """The defaults of `edgekit run` for this model, if its files set any: llama-cli and llama-server use them. The
    penalty's window is the whole context, as in edgekit and Hugging Face (llama.cpp's own default is 64 tokens)."""
    sampling = defaults(files)
    if all(getattr(sampling, name) == getattr(Sampling, name) for name in _SAMPLING):
        return {}
    return {
        "general.sampling.temp": float(sampling.temperature),
        "general.sampling.top_k": np.int32(min(sampling.top_k, config.vocab_size)),
        "general.sampling.top_p": float(sampling.top_p),
        "general.sampling.min_p": float(sampling.min_p),
        "general.sampling.penalty_repeat": float(sampling.repetition_penalty),
        "general.sampling.penalty_last_n": np.int32(config.max_position_embeddings),
    }


_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def tokenizer_keys(files: Mapping[str, bytes], config: LlamaConfig) -> tuple[dict[str, Any], list[str]]:
    """The `tokenizer.*` keys, and the mapping's notes."""
    special = specials(files, config)
    if "tokenmonster.vocab" in files:
        tokens = tokenmonster.tokens(Vocabulary.from_bytes(files["tokenmonster.vocab"]), special)
    elif "tokenizer.json" in files:
        tokens = bpe.tokens(files, special)
    else:
        tokens = Tokens("none", notes=["the model has no tokenizer: stock llama.cpp programs cannot show its text"])
    keys: dict[str, Any] = {"tokenizer.ggml.model": tokens.model}
    if tokens.pre is not None:
        keys["tokenizer.ggml.pre"] = tokens.pre
    if tokens.texts:
        # llama.cpp aborts the whole process at a duplicate.
        if not len(tokens.texts) == len(set(tokens.texts)) == config.vocab_size:
            raise VocabularyError(f"the tokenizer does not have {config.vocab_size} different tokens")
        keys["tokenizer.ggml.tokens"] = tokens.texts
        keys["tokenizer.ggml.token_type"] = np.array(tokens.types, np.int32)
    if tokens.scores is not None:
        keys["tokenizer.ggml.scores"] = np.array(tokens.scores, np.float32)
    if tokens.merges is not None:
        keys["tokenizer.ggml.merges"] = tokens.merges
    # All that the model has: for others llama.cpp has defaults by kind (BOS 1, EOS 2, or both 11), which would be
    # wrong.
    texts = [text.decode("utf-8", "replace") for text in tokens.texts]
    # llama.cpp has keys for three ends of a text, which ids that it does not know by their spelling need most.
    first, *others = special.stop or (None,)
    others.sort(key=lambda id: id < len(texts) and texts[id] in ALWAYS)
    eos, eot, eom = (first, *others, None, None)[:3]
    ids = {"bos": special.bos, "eos": eos, "eot": eot, "eom": eom, "unknown": tokens.unk, "padding": special.pad}
    keys |= {f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items() if id is not None}
    keys["tokenizer.ggml.add_bos_token"] = special.add_bos
    keys["tokenizer.ggml.add_eos_token"] = False
    keys["tokenizer.ggml.add_space_prefix"] = tokens.add_space_prefix
    if tokens.model == "t5":
        keys["tokenizer.ggml.remove_extra_whitespaces"] = tokens.joins_spaces
        if tokens.charsmap:
            keys["tokenizer.ggml.precompiled_charsmap"] = tokens.charsmap
    if (template := _chat_template(files)) is not None:
        keys["tokenizer.chat_template"] = template
    return keys, [*tokens.notes, *_notes_on_ends(keys, texts, special.stop)]


def _notes_on_ends(keys: Mapping[str, Any], texts: Sequence[str], stop: Sequence[int]) -> Iterator[str]:
    """Where stock programs end a text and edgekit does not, and the other way around."""
    stock = ends(keys, texts)
    if lacking := [texts[id] for id in stop if texts and id not in stock]:
        yield f"llama.cpp has keys for three ends of a text: stock programs do not end at {_listed(lacking)}"
    if more := [texts[id] for id in stock if id not in stop]:
        yield f"stock llama.cpp programs also end a text at {_listed(more)}, by the spelling"


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(map(repr, texts[:3])) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _chat_template(files: Mapping[str, bytes]) -> str | None:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    template = read_json(files, "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several by name: transformers and gguf's tools use the one called default
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
