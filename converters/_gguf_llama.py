"""llama.cpp's own quantizer, for the types that exist only there. Needs llama-cpp-python."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from edgekit import submodules
from edgekit.checkpoint import Checkpoint
from edgekit.convert import Written
from edgekit.converters import _gguf_package as gguf
from edgekit.errors import MissingExtraError, RuntimeFailure
from edgekit.gguf_file import BLOCKS, GGUFFile
from edgekit.runtime import physical_cores

# quant -> llama.h's enum llama_ftype, by gguf's name. A K-quant without a letter is llama-quantize's medium.
FILE_TYPES = {"q3_k": "Q3_K_M", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M"}

# Where a row does not divide by 256: llama-quantize's own next wider type with blocks of 32 (tensor_type_fallback in
# llama-quant.cpp). It does so by itself, except for a type it was told by name: there it aborts.
WIDER = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def library(what: str) -> ModuleType:
    """llama-cpp-python's bindings. Raises `MissingExtraError` that names what needs them."""
    try:
        return submodules.load("llama_cpp", "llama_cpp")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} needs llama-cpp-python, which is not installed: pip install 'edgekit[llamacpp]'"
        ) from error


def quantize(
    llama: ModuleType, checkpoint: Checkpoint, plain: Path, out: Path, quant: str, embedding: str | None
) -> list[Written]:
    """Quantize the F32 file `plain` into `out`. Raises `RuntimeFailure` with llama.cpp's own words."""
    width, tied = checkpoint.config.hidden_size, checkpoint.config.tie_word_embeddings
    name = FILE_TYPES.get(quant, quant.upper())
    params = llama.llama_model_quantize_default_params()
    params.nthread = physical_cores()
    params.ftype = int(gguf.LlamaFileType[("ALL_" if quant == "f32" else "MOSTLY_") + name])
    embedding_type = _fitting(embedding.upper(), width) if embedding else None
    if embedding_type:
        number = int(gguf.GGMLQuantizationType[embedding_type])
        params.token_embedding_type = number
        if tied:
            params.output_tensor_type = number  # the one that counts if the embedding is the output matrix too
    with silenced(llama) as said:
        llama.llama_backend_init()
        failed = llama.llama_model_quantize(str(plain).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        raise RuntimeFailure(f"llama.cpp cannot quantize to {quant}: {said[0] if said else 'it does not say why'}")
    return [
        Written(t.name, t.shape, t.type, t.bytes, _note(t.name, t.shape, name, embedding, tied))
        for t in GGUFFile(out).tensors.values()
    ]


def _fitting(kind: str, width: int) -> str:
    if width % BLOCKS[kind][0] and kind in WIDER:
        kind = WIDER[kind]
    return kind if width % BLOCKS[kind][0] == 0 else "F16"


def _note(name: str, shape: tuple[int, ...], quant: str, embedding: str | None, tied: bool) -> str:
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
        return "llama-quantize's choice for the output matrix" + ", which is the embedding too" * is_embedding
    return ""


@contextlib.contextmanager
def silenced(llama: ModuleType) -> Iterator[list[str]]:
    """llama.cpp prints nothing in here; its errors are in the list."""
    said: list[str] = []

    def hear(level: int, text: bytes, _data: object) -> None:
        if level == 4 and (line := text.decode("utf-8", "replace").strip()):
            said.append(line)

    callback = llama.llama_log_callback(hear)
    before, data = llama.llama_log_callback(), ctypes.c_void_p()
    llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield said
    finally:
        llama.llama_log_set(before, data)
