"""Tensors by their names in a GGUF file, and the order of query and key rows there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgekit.formats.llama_config import LlamaConfig
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
ROPE = "rope_freqs.weight"
"""By how much the frequency of each pair is divided, float32 (head_dim / 2,): `llama3` scaling. Not a weight."""
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name for a tensor of `LlamaConfig.shapes`. Raises `KeyError` for any other name."""
    if name in NAMES:
        return NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        raise KeyError(name)
    return f"blk.{match[1]}.{LAYER[match[2]]}.{match[3]}"


def file_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a file by llama.cpp's name: those of `LlamaConfig.shapes`, and the divisors of `llama3`."""
    shapes = {gguf_name(name): shape for name, shape in config.shapes().items()}
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        shapes[ROPE] = (config.head_dim // 2,)
    return shapes


def interleave(rows: NDArray, head_dim: int) -> NDArray:
    """Query or key rows, (heads * head_dim, width), from Hugging Face's order to llama.cpp's.

    Rotary embeddings rotate pairs of a head's rows: Hugging Face pairs row i with row i + head_dim/2, llama.cpp's
    `llama` architecture row 2i with row 2i + 1 (convert_hf_to_gguf.py, LlamaModel.permute). A file without this
    permutation loads and generates nonsense.
    """
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def deinterleave(rows: NDArray, head_dim: int) -> NDArray:
    """The inverse of `interleave`, in C order."""
    return np.ascontiguousarray(rows.reshape(-1, head_dim // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape))


def permute(name: str, values: NDArray, config: LlamaConfig) -> NDArray:
    """A tensor in the order of a GGUF file: queries and keys are interleaved, others are returned as they are."""
    if not is_rotated(name):
        return values
    return interleave(values.reshape(len(values), -1), config.head_dim).reshape(values.shape)


def unpermute(name: str, values: NDArray, config: LlamaConfig) -> NDArray:
    """The inverse of `permute`."""
    if not is_rotated(name):
        return values
    return deinterleave(values.reshape(len(values), -1), config.head_dim).reshape(values.shape)


def is_rotated(name: str) -> bool:
    """Whether the rows of a tensor of `LlamaConfig.shapes` have another order in a GGUF file."""
    return name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias"))
