"""Tensor names and the order of Q and K rows, Hugging Face's and llama.cpp's."""

import re

import numpy as np
from numpy.typing import NDArray

from edgekit.formats.checkpoint import LlamaConfig

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
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
    """llama.cpp's name for a tensor of `LlamaConfig.shapes`."""
    if name in NAMES:
        return NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    assert match, name
    return f"blk.{match[1]}.{LAYER[match[2]]}.weight"


def _heads(name: str, config: LlamaConfig) -> int:
    if name.endswith("q_proj.weight"):
        return config.num_attention_heads
    return config.num_key_value_heads if name.endswith("k_proj.weight") else 0


def permute(name: str, values: NDArray, config: LlamaConfig) -> NDArray:
    """Q and K rows in llama.cpp's order; other tensors as they are.

    Rotary embeddings turn pairs of a head's rows: Hugging Face pairs row i with row i + head_dim/2, llama.cpp's
    `llama` architecture row 2i with row 2i + 1 (convert_hf_to_gguf.py, LlamaModel.permute). A file that forgets this
    loads and talks nonsense.
    """
    if not (heads := _heads(name, config)):
        return values
    return values.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)


def unpermute(name: str, values: NDArray, config: LlamaConfig) -> NDArray:
    """The way back from `permute`."""
    if not (heads := _heads(name, config)):
        return values
    return np.ascontiguousarray(values.reshape(heads, config.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(values.shape))
