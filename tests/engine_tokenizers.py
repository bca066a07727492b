"""Tokenizers for the engine's tests: GGUF files without tensors, and small byte-level BPEs for each pre-tokenizer."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from edgekit.formats import embedded
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf_config import llama_keys
from edgekit.formats.gguf_write import head
from edgekit.tokenizers.llamacpp.bpe import IGNORES_MERGES
from edgekit.tokenizers.llamacpp.rebuild import CUTS

PRE = ("gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "default")
CORPUS = [
    "Once upon a time there was a little girl named Lily, and 19 dogs. She liked to play with her red ball.",
    "DON'T you'll we've I'm he'd it's  two  spaces, 2024 1999 12345\n\nNewHTTPServer camelCase ÉCOLE über 中文字 \t x",
    "  return value / 2;\r\n\r\n// comment ... != == +++ --- (a) [b] {c} $5 \u00a0 مرحبا Привет МИР ʰ １２",
] * 3


def gguf(files, rows: int, *, foreign: bool = False, **changes) -> bytes:
    """A GGUF file of a tokenizer, as edgekit writes it, without tensors.

    Args:
        foreign: without edgekit's own keys, as another program would write it.
        changes: other values of `tokenizer.ggml.` keys, or None to leave one out.
    """
    from edgekit.converters._gguf_keys import tokenizer_keys

    settings = config(files, rows)
    keys = llama_keys(settings) | {"general.architecture": "llama"} | tokenizer_keys(files, settings)[0]
    texts, blobs = embedded.pack(files, source_sha256="", quant="f32")
    keys |= {} if foreign else texts | blobs
    keys |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return head({key: value for key, value in keys.items() if value is not None}, [])


def config(files, rows: int) -> LlamaConfig:
    """Of a small model with these files."""
    values = json.loads(files.get("config.json", b"{}"))
    ends = values.get("eos_token_id", [])
    values["eos_token_id"] = tuple(ends) if isinstance(ends, list) else (ends,)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"vocab_size": rows, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
    return LlamaConfig(**values, **sizes)


def train(pre: str) -> dict[str, bytes]:
    """The files of a small byte-level BPE that splits words as llama.cpp does under this name."""
    library = Tokenizer(models.BPE(ignore_merges=pre in IGNORES_MERGES))
    if pre == "smollm":
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        library.pre_tokenizer = pre_tokenizers.Sequence(parts)
    elif pre in ("gpt-2", "default"):
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(CUTS[pre]), "isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    library.add_tokens(["<tool>"])  # not special: text becomes it
    names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    config = {"eos_token_id": [2, 3], "bos_token_id": 1}
    return {
        "tokenizer.json": library.to_str().encode(),
        "tokenizer_config.json": json.dumps(names).encode(),
        "config.json": json.dumps(config).encode(),
    }


def llama_cpp(path: Path, data: bytes):
    """llama.cpp's tokenizer of these bytes."""
    from llama_cpp import Llama

    path.write_bytes(data)
    return Llama(str(path), vocab_only=True, verbose=False)
