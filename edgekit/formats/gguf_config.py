"""A model's configuration in the keys of a GGUF file: read, compared with what edgekit supports, and written."""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import CheckpointError
from edgekit.formats.gguf_tensors import ROPE
from edgekit.formats.llama_config import LlamaConfig
from edgekit.formats.rope import llama3_of
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from edgekit.formats.gguf import GGUFFile, TensorInfo

# `llama.*` keys that are read, or change nothing. Any other is refused: it may change what the model computes.
KNOWN = frozenset(
    """vocab_size context_length embedding_length block_count feed_forward_length attention.head_count
    attention.head_count_kv attention.layer_norm_rms_epsilon attention.key_length attention.value_length
    rope.dimension_count rope.freq_base rope.scaling.type rope.scaling.factor rope.scale_linear
    rope.scaling.original_context_length rope.scaling.finetuned tensor_data_layout""".split()
)
# Keys that may be there with the value that switches the feature off.
OFF: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
}


CARRIED_FIELDS = tuple(
    """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    max_position_embeddings rms_norm_eps rope_theta attention_bias mlp_bias""".split()
)
"""Fields of `LlamaConfig` in which an embedded config.json must agree with the file's own keys."""


def llama_config(file: "GGUFFile") -> LlamaConfig:
    """The configuration in a file's own keys, whatever else it carries.

    Raises `CheckpointError` for another architecture, and for a key that is missing, damaged, unknown, or switches on
    what edgekit does not support; the message names it.
    """
    config = config_from_keys(file.metadata, file.tensors, file.path)
    if ROPE not in file.tensors:
        return config
    info = file.tensors[ROPE]
    if config.rope_scaling is not None or info.type != "F32" or info.shape != (config.head_dim // 2,):
        raise CheckpointError(f"{file.path}: tensor {ROPE} scales the rotary embedding in a way that is not supported")
    divisors = file.data(ROPE).view(np.float32)
    scaling = llama3_of(divisors, config.head_dim, config.rope_theta)
    if scaling is None and (divisors != 1).any():
        raise CheckpointError(f"{file.path}: tensor {ROPE} is not the `llama3` scaling: not supported")
    return replace(config, rope_scaling=scaling)


def config_from_keys(keys: Mapping[str, Any], tensors: Mapping[str, "TensorInfo"], where: object) -> LlamaConfig:
    """`llama_config` for keys that need not be those of a file."""
    if (architecture := keys.get("general.architecture")) != "llama":
        raise CheckpointError(f"{where}: general.architecture is {_short(architecture)}; edgekit reads `llama` only")
    for key in keys:
        if not key.startswith("llama.") or key[6:] in KNOWN:
            continue
        value = keys[key]
        if not isinstance(value, int | float | str) or value not in OFF.get(key[6:], ()):
            raise CheckpointError(f"{where}: {key} is {_short(value)}, which edgekit does not support")
    scaling = _linear(keys, where)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{where}: tensor token_embd.weight is missing or not a matrix")

    def number(key: str, default: Any = None) -> Any:
        value = keys.get("llama." + key, default)
        if not isinstance(value, int | float | str | list | None):  # one number a layer: taken where they are all one
            if value.size == 0 or (value != value.flat[0]).any():
                raise CheckpointError(f"{where}: llama.{key} differs from layer to layer: not supported")
            value = value.flat[0].item()
        if value is None:
            raise CheckpointError(f"{where}: key llama.{key} is missing")
        if isinstance(value, bool | str | list):
            raise CheckpointError(f"{where}: llama.{key} must be a number, not {_short(value)}")
        return value

    # Nothing may be built for layers that only a damaged number claims.
    if not isinstance(layers := number("block_count"), int) or layers > len(tensors):
        raise CheckpointError(f"{where}: llama.block_count is {layers}, but the file has {len(tensors)} tensors")
    heads, hidden = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", hidden // heads if isinstance(heads, int) and heads > 0 else 0)
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(key, head_dim) != head_dim:
            raise CheckpointError(f"{where}: llama.{key} is {number(key)}, head_dim {head_dim}: not supported")
    values = {
        "model_type": "llama",
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": _shortest(number("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(number("rope.freq_base", 10000.0)),
        "rope_scaling": scaling,
        "attention_bias": any(re.fullmatch(r"blk\.\d+\.attn_\w+\.bias", name) for name in tensors),
        "mlp_bias": any(re.fullmatch(r"blk\.\d+\.ffn_\w+\.bias", name) for name in tensors),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": [
            keys[key] for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id") if key in keys
        ],
        "pad_token_id": keys.get("tokenizer.ggml.padding_token_id"),
    }
    return LlamaConfig.from_dict(values, where)


def _linear(keys: Mapping[str, Any], where: object) -> dict[str, Any] | None:
    """The keys of a linear scaling, as `rope_scaling`: llama.cpp reads it so (`rope_freq_scale_train`)."""
    kind = keys.get("llama.rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise CheckpointError(f"{where}: llama.rope.scaling.type is {_short(kind)}, which edgekit does not support")
    factor = keys.get("llama.rope.scaling.factor", keys.get("llama.rope.scale_linear", 0.0))
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise CheckpointError(f"{where}: llama.rope.scaling.factor must be a number, not {_short(factor)}")
    if kind == "none" or factor in (0, 1):
        return None
    return {"rope_type": "linear", "factor": _shortest(factor)}


def _short(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


def _shortest(value: float) -> float:
    """The decimal that a float32 was written as: 1e-05 and not 9.999999747378752e-06."""
    if math.isfinite(value):
        single = struct.pack("<f", value)
        for digits in range(1, 9):
            if struct.pack("<f", short := float(f"{value:.{digits}g}")) == single:
                return short
    return float(value)


def llama_keys(config: LlamaConfig) -> dict[str, Any]:
    """The hyperparameters. head_dim is in three keys: without them llama.cpp uses hidden_size / heads."""
    return {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_theta),
        **rope_keys(config),
    }


def rope_keys(config: LlamaConfig) -> dict[str, Any]:
    """Of a linear scaling; `llama3` is the tensor `rope_freqs.weight`."""
    if config.rope_scaling is None or config.rope_scaling.kind != "linear":
        return {}
    return {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": config.rope_scaling.factor}
