"""llama.cpp's own quantizer, for types that exist only there and for rounding by importance.

Needs llama-cpp-python.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import edgekit.converters._gguf_package as gguf
from edgekit.conversion.base import Written
from edgekit.conversion.importance import Importance
from edgekit.converters._gguf_importance import array, uniform
from edgekit.errors import MissingExtraError, RuntimeFailure
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.gguf import BLOCKS, GGUFFile
from edgekit.utils import lazy, registry
from edgekit.utils.machine import physical_cores

# quant -> llama.h's enum llama_ftype, by gguf's name. A K-quant without a letter is llama-quantize's medium.
FILE_TYPES = {"q3_k": "Q3_K_M", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M"}

# The types that edgekit writes without llama.cpp, unless they are weighed by importance.
DIRECT = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
TIED_NOTE = "8 bits: it is the output matrix too (--embedding-type names another)"
HEAD_NOTE = "8 bits: the output matrix"

# For a row that does not divide by 256: llama-quantize's next wider type with blocks of 32 (tensor_type_fallback in
# llama-quant.cpp). It does so automatically, except for a type that is passed by name: then it aborts.
WIDER = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def library(what: str) -> ModuleType:
    """llama-cpp-python's bindings. Raises `MissingExtraError` that names what needs them."""
    try:
        return lazy.load("llama_cpp", "llama_cpp")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} needs llama-cpp-python, which is not installed: {registry.install_command('llamacpp')}"
        ) from error


def quantize(
    llama: ModuleType,
    checkpoint: Checkpoint,
    plain: Path,
    out: Path,
    quant: str,
    embedding: str | None,
    importance: Importance | None = None,
) -> list[Written]:
    """Quantize the F32 file `plain` to `out`. Raises `RuntimeFailure` with llama.cpp's own message."""
    tied = checkpoint.config.tie_word_embeddings
    params = _params(llama, checkpoint.config, quant, embedding, importance)
    _call(llama, plain, out, params, quant)
    name, direct = FILE_TYPES.get(quant, quant.upper()), quant in DIRECT
    return [
        Written(t.name, t.shape, t.type, t.bytes, _note(t.name, t.shape, name, embedding, tied, direct))
        for t in GGUFFile(out).tensors.values()
    ]


def types(
    llama: ModuleType, checkpoint: Checkpoint, plain: Path, quant: str, embedding: str | None, weighted: bool
) -> dict[str, str]:
    """Name of a tensor -> the type that it would get: llama.cpp quantizes a thin model, and its file is read.

    Args:
        plain: a file with all metadata, whose matrices may have fewer rows than the model's, but at least two.
        weighted: whether there will be an importance matrix.

    Raises:
        RuntimeFailure: llama.cpp refuses.
    """
    importance = uniform(checkpoint.config) if weighted else None
    params = _params(llama, checkpoint.config, quant, embedding, importance)
    out = plain.with_name(f"thin-{quant}.gguf")
    try:
        _call(llama, plain, out, params, quant)
        return {tensor.name: tensor.type for tensor in GGUFFile(out).tensors.values()}
    finally:
        out.unlink(missing_ok=True)


def _params(
    llama: ModuleType, config: LlamaConfig, quant: str, embedding: str | None, importance: Importance | None
) -> Any:
    """llama.cpp's parameters. What they point to lives as long as they do."""
    params = llama.llama_model_quantize_default_params()
    params.nthread = physical_cores()
    params.ftype = int(
        gguf.LlamaFileType[("ALL_" if quant == "f32" else "MOSTLY_") + FILE_TYPES.get(quant, quant.upper())]
    )
    if quant in DIRECT and quant != "f32":
        # As when edgekit writes these types itself: 8 bits for the output matrix, and no other types for some layers
        # because there is an importance matrix.
        params.pure = True
        params.token_embedding_type = params.output_tensor_type = int(gguf.GGMLQuantizationType.Q8_0)
        if not config.tie_word_embeddings:
            params.token_embedding_type = int(gguf.GGMLQuantizationType[_fitting(quant.upper(), config.hidden_size)])
    if embedding:
        number = int(gguf.GGMLQuantizationType[_fitting(embedding.upper(), config.hidden_size)])
        params.token_embedding_type = number
        if config.tie_word_embeddings:
            params.output_tensor_type = number  # the one that counts if the embedding is the output matrix too
    if importance is not None:
        params.imatrix = params.kept = array(llama, importance)
    return params


def _call(llama: ModuleType, plain: Path, out: Path, params: Any, quant: str) -> None:
    """Run the quantizer. Raises `RuntimeFailure` with llama.cpp's own message."""
    with silenced(llama) as errors:
        llama.llama_backend_init()
        failed = llama.llama_model_quantize(str(plain).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        raise RuntimeFailure(f"llama.cpp cannot quantize to {quant}: {errors[0] if errors else 'it gives no reason'}")


def _fitting(kind: str, width: int) -> str:
    if width % BLOCKS[kind][0] and kind in WIDER:
        kind = WIDER[kind]
    return kind if width % BLOCKS[kind][0] == 0 else "F16"


def _note(name: str, shape: tuple[int, ...], quant: str, embedding: str | None, tied: bool, direct: bool) -> str:
    kind = quant.rsplit("_", 1)[0] if quant.endswith(("_S", "_M", "_L")) else quant
    if len(shape) == 1:
        return "a vector"
    is_embedding = name == "token_embd.weight"
    if is_embedding and embedding:
        kind = embedding.upper()
    elements = BLOCKS[kind][0]
    if shape[-1] % elements:
        return f"rows of {shape[-1]} do not divide into {kind} blocks of {elements}"
    if (is_embedding and tied and not embedding) or name == "output.weight":
        if direct:
            return TIED_NOTE if is_embedding else HEAD_NOTE
        return "llama-quantize's choice for the output matrix" + ", which is the embedding too" * is_embedding
    return ""


@contextlib.contextmanager
def silenced(llama: ModuleType) -> Iterator[list[str]]:
    """llama.cpp prints nothing in this block; its errors are in the list."""
    errors: list[str] = []

    def on_message(level: int, text: bytes, _data: object) -> None:
        if level == 4 and (line := text.decode("utf-8", "replace").strip()):
            errors.append(line)

    callback = llama.llama_log_callback(on_message)
    before, data = llama.llama_log_callback(), ctypes.c_void_p()
    llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield errors
    finally:
        llama.llama_log_set(before, data)
