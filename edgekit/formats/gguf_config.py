"""What a GGUF file's own keys say of the model, compared with what edgekit supports."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig

if TYPE_CHECKING:
    from edgekit.formats.gguf import GGUFFile, TensorInfo

# `llama.*` keys that are read, or change nothing. Any other is refused: it may change what the model computes.
KNOWN = frozenset(
    """vocab_size context_length embedding_length block_count feed_forward_length attention.head_count
    attention.head_count_kv attention.layer_norm_rms_epsilon attention.key_length attention.value_length
    rope.dimension_count rope.freq_base tensor_data_layout""".split()
)
# Keys that may be there with the value that switches the feature off.
OFF: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.type": ("none",),
    "rope.scale_linear": (1.0,),
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
}


CARRIED_FIELDS = tuple(
    """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    max_position_embeddings rms_norm_eps rope_theta""".split()
)
"""Fields of `LlamaConfig` in which an embedded config.json must agree with the file's own keys."""


def llama_config(file: "GGUFFile") -> LlamaConfig:
    """The configuration in a file's own keys, whatever else it carries.

    Raises `CheckpointError` for another architecture, and for a key that is missing, damaged, unknown, or switches on
    what edgekit does not support; the message names it.
    """
    return config_from_keys(file.metadata, file.tensors, file.path)


def config_from_keys(keys: Mapping[str, Any], tensors: Mapping[str, "TensorInfo"], where: object) -> LlamaConfig:
    """`llama_config` for keys that need not be those of a file."""
    if (architecture := keys.get("general.architecture")) != "llama":
        raise CheckpointError(f"{where}: general.architecture is {_short(architecture)}; edgekit reads `llama` only")
    for key, value in keys.items():
        if not key.startswith("llama.") or key[6:] in KNOWN:
            continue
        if isinstance(value, np.ndarray | list) or value not in OFF.get(key[6:], ()):
            raise CheckpointError(f"{where}: {key} is {_short(value)}, which edgekit does not support")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{where}: tensor token_embd.weight is missing or not a matrix")

    def number(key: str, default: Any = None) -> Any:
        value = keys.get("llama." + key, default)
        if isinstance(value, np.ndarray):  # one number a layer: taken where they are all one
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
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": [
            keys[key] for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id") if key in keys
        ],
        "pad_token_id": keys.get("tokenizer.ggml.padding_token_id"),
    }
    return LlamaConfig.from_dict(values, where)


def _short(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


def _shortest(value: float) -> float:
    """The decimal that a float32 was written as: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
