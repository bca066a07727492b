"""GGUF, for llama.cpp: one file that edgekit and every stock llama.cpp program load. Needs numpy and `gguf`; no torch.

f32, f16, bf16 and the simple block types are written here, with gguf's quantizers, whose bytes equal llama.cpp's own.
The K-quants and iq4_nl exist only in llama.cpp and are written by its `llama_model_quantize`.

The type of a tensor:

* Vectors (the norms) stay F32.
* The output matrix, which for tied models is also the embedding, has 8 bits if `--quant` asks for fewer: every logit
  is a sum over one of its rows, and models degrade badly with 4 bits there (llama-quantize keeps it at Q6_K for the
  same reason; `gguf` cannot write that type). K-quants use llama-quantize's choice, Q6_K. An embedding that is only
  looked up has the type of the rest. `--embedding-type` names another type for the embedding.
* If a row does not divide into the type's blocks, the tensor gets a wider type, which the table shows.

With `importance`, llama.cpp's quantizer writes every type below 8 bits. It looks for the scales that lose least where a
text's activations are large (ggml's `quantize_row_q4_0_impl` and the like). The types stay the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgekit.converters._gguf_package as gguf
from edgekit.conversion import importance
from edgekit.conversion.base import Planned, Written
from edgekit.converters import _gguf_importance, _gguf_keys, _gguf_llama, _gguf_plan, _gguf_receipt
from edgekit.converters._gguf_llama import DIRECT, HEAD_NOTE, TIED_NOTE
from edgekit.converters._gguf_read import read, weights
from edgekit.converters._gguf_receipt import add_receipt
from edgekit.errors import CheckpointError, SettingError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.gguf import BLOCKS
from edgekit.formats.gguf import GGUFFile as open_artefact
from edgekit.formats.gguf_tensors import ROPE, file_shapes, gguf_name, permute
from edgekit.formats.gguf_write import tensor_bytes, write
from edgekit.formats.rope import divisors
from edgekit.settings import Converting
from edgekit.utils.progress import Progress

__all__ = [
    "DEFAULT", "DIRECT", "EMBEDDING_TYPES", "PROBES", "QUANTS", "SAME", "SUFFIX", "WEIGHTED", "add_receipt", "convert",
    "open_artefact", "planned", "read", "sizes", "weights",
]  # fmt: skip

SUFFIX = ".gguf"
QUANTS = (
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k", "q4_k_m", "q4_k_s",
    "iq4_nl", "q4_1", "q4_0", "q3_k", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
)  # fmt: skip
DEFAULT = "q8_0"
EMBEDDING_TYPES = (*DIRECT, "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "iq4_nl")

# Two names of the same type; the second is llama-quantize's.
SAME = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
PROBES = ("q8_0", "q4_0", "q4_k_m", "q2_k")
WEIGHTED = tuple(quant for quant in QUANTS if quant not in _gguf_importance.NOT_WEIGHTED)

# The largest absolute value that a type can store: scales and minima are float16, and a scale is the largest value of
# a block divided by the largest integer of the type.
LARGEST = {
    "F16": 65504.0,
    "BF16": 3.3895e38,
    "Q8_0": 65504.0 * 127,
    "Q5_0": 65504.0 * 16,
    "Q4_0": 65504.0 * 8,
    "Q5_1": 65504.0,
    "Q4_1": 65504.0,
}


def convert(
    checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress, receipt: int = 0
) -> list[Written]:
    """Write `checkpoint` to `out`, its tensors as `settings` asks.

    Notes on what stock llama.cpp programs will do differently than edgekit are added to `checkpoint.notes`.

    Args:
        receipt: characters to reserve for `add_receipt`.

    Raises:
        SettingError: an unknown quantization or embedding type.
        CheckpointError: a value that the type cannot hold; names the tensor.
        VocabularyError: tokenizer files that are damaged or do not fit the embedding.
        MissingExtraError: a K-quant, or importance, without llama-cpp-python.
    """
    quant, embedding = _checked(settings)
    keys = {embedded.RECEIPT: _gguf_receipt.blank(receipt)} if receipt else {}
    if _is_direct(quant, embedding) and settings.importance is None:
        return _direct(checkpoint, out, quant, embedding, progress, extra=keys)
    feature = (
        quant if quant not in DIRECT else f"with a {embedding} embedding" if embedding else f"{quant} with importance"
    )
    llama, matrix = _gguf_llama.library(f"gguf {feature}"), None
    if settings.importance is not None:
        matrix = importance.collect(checkpoint, settings.importance)
        keys = _gguf_importance.keys(matrix) | keys
    plain = out.with_name(f"{out.stem}.f32{out.suffix}")
    try:
        # The metadata must name the requested type, whatever the intermediate file has.
        _direct(checkpoint, plain, "f32", None, progress, stated=quant, extra=keys)
        return _gguf_llama.quantize(llama, checkpoint, plain, out, quant, embedding, matrix)
    finally:
        plain.unlink(missing_ok=True)


def _checked(settings: Converting) -> tuple[str, str | None]:
    """The quantization and the embedding's type. Raises `SettingError`."""
    quant = (settings.quant or DEFAULT).lower()
    embedding = settings.embedding_type.lower() if settings.embedding_type else None
    for what, value, known in (("quantization", quant, QUANTS), ("embedding type", embedding, EMBEDDING_TYPES)):
        if value is not None and value not in known:
            raise SettingError(f"unknown {what} {value!r} for gguf: choose from {', '.join(known)}")
    if settings.kv_cache != "f32":
        raise SettingError("kv_cache is a setting of onnx: llama.cpp chooses its cache when it runs (--kv-type)")
    if settings.importance is not None and quant not in WEIGHTED:
        raise SettingError(f"importance changes nothing at {quant}: it is for types of less than 8 bits")
    return quant, embedding


def _is_direct(quant: str, embedding: str | None) -> bool:
    return quant in DIRECT and (embedding is None or embedding in DIRECT)


def _direct(
    checkpoint: Checkpoint,
    out: Path,
    quant: str,
    embedding: str | None,
    progress: Progress,
    *,
    stated: str = "",
    extra: dict[str, Any],
) -> list[Written]:
    """Write a file without llama.cpp.

    Args:
        stated: the quantization that the metadata names, if not `quant`.
        extra: keys behind all others.
    """
    plan = planned(checkpoint.config, quant, embedding)
    # gguf's names are ALL_F32 for the one and MOSTLY_... for the rest.
    file_type = gguf.LlamaFileType[("ALL_" if quant == "f32" else "MOSTLY_") + quant.upper()]
    keys, notes = _gguf_keys.metadata(checkpoint, stated or quant, int(file_type))

    def data() -> Iterator[np.ndarray]:
        config = checkpoint.config
        names = list(config.shapes())
        rows = zip(names, plan, strict=False)
        for name, written in progress(rows, "tensors", len(names)):
            yield encode(permute(name, checkpoint.float32(name), config), written.type, name)
        if len(plan) > len(names) and config.rope_scaling is not None:
            yield divisors(config.head_dim, config.rope_theta, config.rope_scaling)

    write(out, keys | extra, [(w.name, w.shape, w.type) for w in plan], data())
    checkpoint.notes.extend(note for note in notes if note not in checkpoint.notes)
    return plan


def sizes(checkpoint: Checkpoint, settings: Converting) -> Iterator[Planned]:
    """The size of a file of each of `QUANTS`. Raises as `convert`."""
    return _gguf_plan.sizes(checkpoint, settings, QUANTS, SAME, WEIGHTED, planned)


def planned(config: LlamaConfig, quant: str, embedding: str | None = None) -> list[Written]:
    """The tensors that a conversion to one of `DIRECT` will write."""
    tensors = [_plan(config, name, quant.upper(), embedding) for name in config.shapes()]
    if (shape := file_shapes(config).get(ROPE)) is not None:
        tensors.append(Written(ROPE, shape, "F32", tensor_bytes(shape, "F32")))
    return tensors


def _plan(config: LlamaConfig, name: str, quant: str, embedding: str | None) -> Written:
    """The type of one tensor, and why it is not the requested one."""
    shape = config.shapes()[name]
    kind, note = quant, ""
    if len(shape) == 1:
        kind, note = "F32", "" if quant == "F32" else "a vector"
    elif name == "model.embed_tokens.weight" and embedding:
        kind = embedding.upper()
    elif BLOCKS[quant][0] > 1 and quant != "Q8_0":
        if name == "lm_head.weight":
            kind, note = "Q8_0", HEAD_NOTE
        elif name == "model.embed_tokens.weight" and config.tie_word_embeddings:
            kind, note = "Q8_0", TIED_NOTE
    elements = BLOCKS[kind][0]
    if shape[-1] % elements:
        kind, note = "F16", f"rows of {shape[-1]} do not divide into {kind} blocks of {elements}"
    return Written(gguf_name(name), shape, kind, tensor_bytes(shape, kind), note)


def encode(values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """float32 values, shape (rows, width) or (width,), as the bytes of a type; rounded as by ggml's reference code.

    Raises `CheckpointError` that names the tensor and its largest value if the type cannot store it.
    """
    if kind in LARGEST and values.size:
        largest = float(np.abs(values).max())
        if largest > LARGEST[kind]:
            raise CheckpointError(
                f"tensor {name} has a value of {largest:.4g}, more than {kind} can hold ({LARGEST[kind]:.4g}): "
                "use --quant f32 or bf16"
            )
    return gguf.quantize(values, gguf.GGMLQuantizationType[kind])
