"""llama2.c's `model.bin`: seven whole numbers, then the weights in float32 (https://github.com/karpathy/llama2.c).

    version 0   the weights in the order of export.py's legacy_export, with tables of cosines and sines that nothing
                reads any more; a negative vocabulary means an output matrix of its own
    version 1   "ak42" and a version before the numbers, 256 bytes in all, and another order (version1_export)
    version 2   int8, in two layouts that the file does not tell apart: not read

Rows of queries and keys are in Meta's order, as in a GGUF. What the file does not say is what run.c computes with.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgekit.errors import CheckpointError, FileError, UnsupportedError
from edgekit.formats.gguf_tensors import permute, unpermute
from edgekit.formats.llama_config import MOST_LAYERS, MOST_ROWS, LlamaConfig
from edgekit.utils.files import open_regular, os_reason, read_bytes
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIX, MODEL = ".bin", "model.bin"
MAGIC = 0x616B3432
HEADER, LONG_HEADER = 28, 256

EPSILON, THETA = 1e-5, 10000.0
BOS, EOS = 1, 2
"""What run.c has as constants. A text ends at BOS: its training data has that between two texts, and no EOS."""

_NUMBERS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_FFN = ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")
_BEFORE, _AFTER = "input_layernorm", "post_attention_layernorm"
_EMBEDDING, _NORM, _HEAD, _ROPE = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "rope"
# A name that does not end in a suffix is of a layer, and stands for those of all layers.
_ORDERS = {
    0: (_EMBEDDING, _BEFORE, *_ATTENTION, _AFTER, *_FFN, _NORM, _ROPE, _HEAD),
    1: (_BEFORE, _AFTER, _NORM, _EMBEDDING, *_ATTENTION, *_FFN, _HEAD),
}


class Header(NamedTuple):
    """The beginning of a file."""

    version: int
    start: int
    """Of the weights, in bytes."""
    config: LlamaConfig


def read(path: Path) -> tuple[LlamaConfig, dict[str, NDArray[np.float32]]]:
    """Configuration and tensors, by Hugging Face's names and in its order of rows.

    Raises:
        FileError: the file cannot be read.
        UnsupportedError: int8 weights, or a later version.
        CheckpointError: another format, or a header that the file's size contradicts.
    """
    try:
        with open_regular(path) as file:
            header = read_header(file.read(LONG_HEADER), path)
            size = file.seek(0, 2)
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error
    config, at, parts = header.config, header.start, _parts(header.version, header.config)
    needed = at + 4 * sum(math.prod(shape) for shape in parts.values())
    if size != needed:
        raise CheckpointError(
            f"{path}: its header asks for {needed:,} bytes and the file has {size:,}: it is cut short, or not a "
            "model.bin of llama2.c"
        )
    data, tensors = read_bytes(path), {}
    for name, shape in parts.items():
        values = np.frombuffer(data, "<f4", math.prod(shape), at).reshape(shape)
        at += values.nbytes
        if name != _ROPE:
            tensors[name] = unpermute(name, values, config)
    return config, tensors


def read_header(data: bytes, where: object) -> Header:
    """The numbers at the beginning of a file. Raises as `read`."""
    other = f"{where} is not a model.bin of llama2.c"
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise CheckpointError(f"{other}, but pickled weights, which edgekit never loads: give its model folder")
    version = start = 0
    if len(data) >= 8 and struct.unpack("<I", data[:4])[0] == MAGIC:
        version, start = struct.unpack("<i", data[4:8])[0], 8
        if version != 1:
            what = "has int8 weights (version 2)" if version == 2 else f"is of version {version}"
            raise UnsupportedError(
                f"{where} {what}: edgekit reads versions 0 and 1 of llama2.c's files, which its export.py also writes"
            )
    if len(data) < (LONG_HEADER if version else HEADER):
        raise CheckpointError(f"{other}: it has only {len(data)} bytes")
    numbers = dict(zip(_NUMBERS, struct.unpack_from("<7i", data, start), strict=True))
    tied = bool(data[start + HEADER]) if version else numbers["vocab_size"] > 0
    numbers["vocab_size"] = abs(numbers["vocab_size"])
    most = dict.fromkeys(_NUMBERS, 2**24) | {"n_layers": MOST_LAYERS, "vocab_size": MOST_ROWS}
    for name, value in numbers.items():
        if not 0 < value <= most[name]:
            raise CheckpointError(f"{other}: {name} is {value}")
    hidden, ffn, layers, heads, kv_heads, rows, context = numbers.values()
    if hidden % heads or heads % kv_heads or hidden // heads % 2:
        raise CheckpointError(f"{other}: dim {hidden} does not make {heads} heads of pairs, {kv_heads} for keys")
    if rows <= EOS:
        raise CheckpointError(f"{other}: vocab_size is {rows}, without BOS and EOS")
    config = LlamaConfig(
        rows, hidden, ffn, layers, heads, kv_heads, hidden // heads, context, EPSILON, THETA, tied, BOS, (BOS, EOS)
    )
    return Header(version, LONG_HEADER if version else HEADER, config)


def write(path: Path, config: LlamaConfig, tensor: Callable[[str], NDArray[np.float32]]) -> None:
    """Write a file of version 0, which every llama2.c reads; `refused` says which models it cannot hold.

    Args:
        tensor: the values of a name of `config.shapes`, in Hugging Face's order of rows.
    """
    rows = config.vocab_size if config.tie_word_embeddings else -config.vocab_size
    with path.open("wb") as file:
        file.write(struct.pack(
            "<7i", config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
            config.num_key_value_heads, rows, config.max_position_embeddings,
        ))  # fmt: skip
        for name in _parts(0, config):
            values = _rope_tables(config) if name == _ROPE else permute(name, tensor(name), config)
            file.write(np.ascontiguousarray(values, "<f4").data)


def refused(config: LlamaConfig) -> str:
    """What run.c computes otherwise than this model needs, in words; "" if it runs the model."""
    if config.rope_scaling is not None:
        return "rope_scaling"
    if config.attention_bias or config.mlp_bias:
        return "biases"
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        return f"a head_dim of {config.head_dim}"
    for name, fixed in (("rms_norm_eps", EPSILON), ("rope_theta", THETA)):
        if np.float32(getattr(config, name)) != np.float32(fixed):
            return f"a {name} of {getattr(config, name):g} (it has {fixed:g})"
    return ""


def _parts(version: int, config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of what is in a file, in its order; "rope" stands for the two tables."""
    shapes = config.shapes() | {_ROPE: (2, config.max_position_embeddings, config.head_dim // 2)}
    names: list[str] = []
    for name in _ORDERS[version]:
        layers = range(config.num_hidden_layers)
        names += [name] if name in (*shapes, _HEAD) else [f"model.layers.{i}.{name}.weight" for i in layers]
    return {name: shapes[name] for name in names if name in shapes}


def _rope_tables(config: LlamaConfig) -> NDArray[np.float32]:
    """Cosines and sines, (2, positions, head_dim / 2)."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    angles = np.outer(np.arange(config.max_position_embeddings), config.rope_theta**-exponents)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
