"""A model of Stentor2-12M's shape with seeded weights and a tokenizer that every peer can read.

Also maps the benchmarks' names of types to conversion settings.
"""

import itertools
import json
import string
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from edgekit.formats.checkpoint import LlamaConfig
from edgekit.settings import Converting

SPECIALS = ("<pad>", "<s>", "</s>")

SHAPE = LlamaConfig(
    vocab_size=8064,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=12,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=(2,),
)
"""12,294,400 parameters."""


def write(folder: Path) -> None:
    """Write a Hugging Face folder, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in SHAPE.shapes().items():
        noise = rng.standard_normal(shape, np.float32)
        # Wider than the usual 0.02: with flat logits, rounding errors would decide every choice.
        tensors[name] = 1 + np.float32(0.1) * noise if name.endswith("norm.weight") else np.float32(0.05) * noise
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = SHAPE.to_dict() | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(SHAPE.vocab_size)))
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIALS, strict=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": SHAPE.max_position_embeddings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))


def converting(kind: str) -> Converting:
    """Settings for an ONNX type of the benchmarks: `int4`, or `int4-kv8` with an int8 KV cache."""
    quant = kind.removesuffix("-kv8")
    return Converting(quant=quant, kv_cache="f32" if quant == kind else "int8")


def tokenizer(vocab_size: int) -> dict[str, object]:
    """tokenizer.json of a byte-level BPE: the bytes, then pairs and triples of letters in alphabetical order."""
    letters = string.ascii_lowercase
    pairs = ["".join(each) for each in itertools.product(letters, repeat=2)]
    triples = ["".join(each) for each in itertools.product(letters, repeat=3)]
    words = [*SPECIALS, *_bytes(), *pairs, *triples][:vocab_size]
    merges = [[word[:-1], word[-1]] for word in words if word not in SPECIALS and len(word) > 1]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i, name in enumerate(SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)}, "merges": merges,
        },
    }  # fmt: skip


def _bytes() -> list[str]:
    """GPT-2's 256 characters for bytes: printable ones stand for themselves, the rest start at U+0100."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printing]
    return [chr(byte) for byte in printing] + [chr(256 + i) for i in range(len(rest))]
