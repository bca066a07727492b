"""ONNX: one `.onnx` file with the weights, the tokenizer and the configuration inside.

There are two graphs. `fused` is for ONNX Runtime: `_onnx_fused.py` builds it with numpy and onnx in less than a second.
`portable` is what Hugging Face optimum exports for text-generation-with-past, in operators of the ONNX standard
(`_optimum.py`, which needs torch and optimum): any program that reads ONNX runs it, at a fraction of the speed.

The fused graph's weights:

fp32        float32, lossless
fp16        stored as float16, cast to float32 when the file is loaded; lossless for a checkpoint in float16
int8        blocks of 128 at 8 bits (MatMulNBits); activations in int8 too, with a scale for each block
int4        4 bits with searched scales in blocks of 128, or of 32 if those lose clearly less; embedding, head and the
            matrices that lose most as in int8, chosen by measuring the checkpoint (_onnx_choice.py)
int4_pure   everything at 4 bits, in blocks of 32

Size of Stentor2-12M's shape (12,294,400 parameters), vocabulary inside, and mean KL(source || artefact) in nats a
token over 2,048 tokens of TinyStories' validation texts, with top-1 agreement, for two trained models:

                 12.3M       story-7m (bundled)   stories260K
fp32             49.49 MB    0        100.0 %     0        100.0 %
fp16             24.92       0        100.0       6e-07    100.0
int8             13.01       4.4e-04   98.6       1.2e-03   97.5
int4              9.18       5.8e-03   95.0       4.5e-02   90.0
int4_pure         8.02       2.3e-02   92.5       1.2e-01   81.7
portable int8    13.10       4.1e-03   96.6       6.9e-03   94.5

Rounding to 4 bits (weights only, the whole model): with scales from the block's extreme value KL is 0.156 on
stories260K, with searched scales 0.121; with a zero point for each block 0.115, which is not worth another eighth of a
bit.

What int4 keeps at 8 bits differs from model to model. Up to version 0.1 it was the first three layers; in files of the
same size the measured choice has a KL of 5.7e-3 instead of 9.5e-3 on story-7m (4,096 positions of stories). On
SmolLM2-135M-Instruct one matrix, down of layer 11, loses a seventh of what all 120 lose together. Its perplexity rises
by 7.6 % instead of 14.6 % (256 positions of the bundled text; a quarter of the layers' weights may have 8 bits, which
for its 30 layers is more than three: 104 MB instead of 97).

Blocks of 128 increase KL and speed (_onnx_blocks.py). A step at 160 tokens of context, 12.3M, one core, three layers at
8 bits, measured alternately with blocks of 32 and one layer: 1.27 times as fast, in a file 1 % smaller.

Activations are rounded (accuracy level 4), because kernels with float32 activations are 1.6 times slower at 4 bits and
several times at 8. Those of each token are rounded separately. But a single token uses another attention kernel than
several together, and products in blocks of 128 use one of three kernels by the number of rows; their sums differ in the
last digit, and where that changes a rounding, logits differ by up to 0.3 on story-7m with earlier weights (standard
deviation 2.8; portable int8: 1.1). For exactly the same result, feed the same pieces, or use fp32.

`--kv-cache int8` stores keys and values in int8 (_onnx_cache.py): a quarter of the cache's memory. It computes more and
reads less, so it pays if the cache is large compared with the weights: in `edgekit bench --threads 1` the 12.3M model
is 1.2 to 1.6 times as fast at int8 with 32 to 1,000 tokens of context, and 1.0 to 1.6 times at int4; story-7m, with
half the layers, 0.9 to 1.1 times up to 160 tokens and 1.15 to 1.35 times at 500. KL with it, story-7m: int8 5.5e-4
instead of 4.4e-4, int4 5.9e-3 and 5.8e-3; stories260K: 6.5e-3 and 1.2e-3, 5.4e-2 and 4.5e-2.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper

from edgekit import __version__
from edgekit.conversion.base import Planned, Written
from edgekit.converters import _onnx_choice, _onnx_fused, _onnx_write
from edgekit.converters._onnx_names import QUANTIZED, ROTARY, weight_of
from edgekit.converters._onnx_read import OnnxArtefact, open_artefact, weights
from edgekit.converters._onnx_receipt import add_receipt, entry_bytes
from edgekit.converters._onnx_types import BLOCKS, fixed
from edgekit.errors import CheckpointError, SettingError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint
from edgekit.settings import Converting
from edgekit.tokenizers.carried import carried
from edgekit.utils import registry
from edgekit.utils.guard import reading
from edgekit.utils.progress import Progress, silent

__all__ = [
    "DEFAULT", "PROBES", "QUANTS", "SUFFIX", "add_receipt", "chosen", "convert", "describe", "open_artefact", "sizes",
    "weights",
]  # fmt: skip

SUFFIX = ".onnx"
QUANTS = ("fp32", "fp16", "int8", "int4", "int4_pure")
PORTABLE_QUANTS = ("fp32", "int8")
DEFAULT = "int8"
PROBES = ("int8", "int4_pure")

# A protobuf message has at most 2 GiB; the rest is for the graph and the embedded files.
LIMIT = 2**31 - 2**26

# ONNX' element types -> names of `--quant`; others have ONNX' name in lower case.
TYPES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}

FUSED_NOTE = "the graph is for ONNX Runtime (1.23 or later) alone: --graph portable writes one for other programs"
CACHE_NOTE = "the graph, with its int8 KV cache, is for ONNX Runtime (1.27 or later) alone"
EIGHT_NOTE = "8 bits: the embedding, the head and the matrices that lose most by 4"


def convert(
    checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress, receipt: int = 0
) -> list[Written]:
    """Write one `.onnx`; returns a row for each tensor, as `describe` does.

    Args:
        settings: `graph`, and `quant` as above; `reduce_range` uses 7 bits for the portable graph's int8 weights, for
            x86 without VNNI. The kernels of the fused graph do not overflow there.
        receipt: unused; a receipt is appended to the file.

    Raises:
        SettingError: a quantization that is not in `QUANTS`, or a setting that does not apply.
        CheckpointError: more weights than fit into one file, or a value that does not fit into fp16.
        MissingExtraError: for the portable graph, torch or optimum is not installed.
        RuntimeFailure: the exporter failed.
    """
    quant = _checked(checkpoint, settings)
    if settings.graph == "portable":
        exporter = registry.load("converters", "_optimum")
        exporter.write(checkpoint, out, quant, settings.reduce_range, _metadata(checkpoint, settings, quant), progress)
        return describe(out)[1]
    fused = _fused(checkpoint, settings, quant, progress)
    _onnx_write.write(out, fused.model, progress(fused.parts, "tensors", len(fused.parts)), fused.specs)
    notes = [FUSED_NOTE if settings.kv_cache == "f32" else CACHE_NOTE]
    if quant == "int4":
        notes.append(_onnx_choice.choose(checkpoint).sentence(checkpoint.config.num_hidden_layers))
    checkpoint.notes.extend(note for note in notes if note not in checkpoint.notes)
    return _stored_rows(fused)


def sizes(checkpoint: Checkpoint, settings: Converting) -> Iterator[Planned]:
    """The size of a fused graph of each of `QUANTS`.

    Raises:
        SettingError: the portable graph, whose size is unknown before it is exported.
        CheckpointError: the tokenizer's files do not fit.
    """
    if settings.graph == "portable":
        raise SettingError(
            "--plan works for the fused graph only: the size of a portable one is known after its export"
        )
    for quant in QUANTS:
        try:
            fused = _fused(checkpoint, settings, _checked(checkpoint, replace(settings, quant=quant)))
        except CheckpointError as error:
            yield Planned(quant, [], None, str(error))
            continue
        size = _onnx_write.size(fused.model, fused.specs) + entry_bytes(embedded.RECEIPT_ROOM)
        yield Planned(quant, _stored_rows(fused), size)


def chosen(checkpoint: Checkpoint, settings: Converting) -> dict[str, Any] | None:
    """For the receipt: what was measured to choose the types of the tensors; None if they follow from `quant`."""
    if settings.graph != "fused" or settings.quant != "int4":
        return None
    return _onnx_choice.choose(checkpoint).record()


def _fused(checkpoint: Checkpoint, settings: Converting, quant: str, progress: Progress = silent) -> _onnx_fused.Fused:
    """The fused graph and its metadata. Raises `CheckpointError` if it is too large."""
    types = _onnx_choice.choose(checkpoint, progress).types if quant == "int4" else fixed(quant)
    fused = _onnx_fused.build(checkpoint, types, settings.kv_cache)
    size = sum(spec.bytes for spec in fused.specs)
    if size > LIMIT:
        raise _too_large(checkpoint, size, quant)
    fused.model.producer_name, fused.model.producer_version = "edgekit", __version__
    helper.set_model_props(fused.model, _metadata(checkpoint, settings, quant))
    return fused


def _stored_rows(fused: _onnx_fused.Fused) -> list[Written]:
    stored = (Stored(s.name, s.shape, _type(helper.np_dtype_to_tensor_dtype(s.dtype)), s.bytes) for s in fused.specs)
    return _rows(fused.model.graph, stored)


def _metadata(checkpoint: Checkpoint, settings: Converting, quant: str) -> dict[str, str]:
    files = carried(checkpoint.files, checkpoint.config.vocab_size)
    texts, blobs = embedded.pack(files, source_sha256=checkpoint.sha256, quant=quant)
    keys = {"edgekit.graph": settings.graph} | ({"edgekit.kv_cache": "int8"} if settings.kv_cache == "int8" else {})
    return keys | texts | {key: embedded.to_text(data) for key, data in blobs.items()}


def _checked(checkpoint: Checkpoint, settings: Converting) -> str:
    """The quantization; raises as `convert`, before anything is written."""
    quant = (settings.quant or DEFAULT).lower()
    known, which = (QUANTS, "onnx") if settings.graph == "fused" else (PORTABLE_QUANTS, "onnx --graph portable")
    if quant not in known:
        raise SettingError(f"unknown quantization {quant!r} for {which}: choose from {', '.join(known)}")
    if settings.embedding_type is not None:
        raise SettingError("embedding_type is a setting of gguf: in onnx the embedding has the type of quant")
    if settings.reduce_range and (settings.graph, quant) != ("portable", "int8"):
        raise SettingError("reduce_range is a setting of --graph portable --quant int8: nothing else needs it")
    if settings.kv_cache != "f32" and (settings.graph != "fused" or quant not in BLOCKS):
        raise SettingError(
            f"kv_cache {settings.kv_cache} is for the fused graph with {', '.join(BLOCKS)}: "
            + (f"{quant} is exact, and so is its cache" if settings.graph == "fused" else "the portable one is float32")
        )
    if settings.graph == "portable":  # it is exported in float32 before it is quantized
        size = 4 * sum(int(np.prod(shape)) for shape in checkpoint.config.shapes().values())
        if size > LIMIT:
            raise _too_large(checkpoint, size, "float32")
    return quant


def _too_large(checkpoint: Checkpoint, size: int, quant: str) -> CheckpointError:
    return CheckpointError(f"{checkpoint.name}: {size / 1e9:.1f} GB in {quant}, but one .onnx file holds 2 GB")


# -----------------------------------------------------------------------------
# the contents of a file


def describe(artefact: Path | OnnxArtefact) -> tuple[dict[str, str], list[Written], dict[str, int]]:
    """An `.onnx` file's metadata, its tensors, and how many nodes of each operator it has, most frequent first.

    Weights have their Hugging Face name (packed ones the name of their kind: `qkv_proj`, `gate_up_proj`) and their
    bytes, scales included. In blocks of 4 or 8 bits their shape is (out, in), otherwise the stored one; most are
    transposed. The graph's constants (axes, shapes) are one row at the end.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: not an ONNX model, or a damaged one.
    """
    path, model = artefact if isinstance(artefact, OnnxArtefact) else open_artefact(artefact)
    with reading(path):
        return _described(model)


def _described(model: ModelProto) -> tuple[dict[str, str], list[Written], dict[str, int]]:
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    operators = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node)
    stored = (Stored(t.name, tuple(t.dims), _type(t.data_type), _bytes(t)) for t in model.graph.initializer)
    return metadata, _rows(model.graph, stored), dict(operators.most_common())


@dataclass(frozen=True)
class Stored:
    """One initializer, without its values."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int


def _rows(graph: GraphProto, stored: Iterable[Stored]) -> list[Written]:
    blocks = _in_blocks(graph)
    weights: dict[str, Written] = {}
    constants = constants_bytes = 0
    for tensor in stored:
        name = weight_of(tensor.name)
        if tensor.name in ROTARY or (not name.endswith(".weight") and len(tensor.shape) != 2):
            constants, constants_bytes = constants + 1, constants_bytes + tensor.bytes
            continue
        size = tensor.bytes + (weights[name].bytes if name in weights else 0)
        if name in weights and tensor.name != name + QUANTIZED:
            weights[name] = replace(weights[name], bytes=size)  # a scale or zero points
        elif tensor.name in blocks:
            row = blocks[tensor.name]
            weights[name] = replace(row, name=name, shape=(tensor.shape[0], row.shape[1]), bytes=size)
        else:
            weights[name] = Written(name, tensor.shape, tensor.type, size)
    rows = list(weights.values())
    if {"int4", "int8"} <= {row.type for row in rows}:
        rows = [replace(r, note=EIGHT_NOTE) if r.type == "int8" and not r.note else r for r in rows]
    if constants:
        rows.append(Written("(constants of the graph)", (constants,), "mixed", constants_bytes))
    return rows


def _in_blocks(graph: GraphProto) -> dict[str, Written]:
    """The matrices that nodes read in blocks, by the initializer's name; without their bytes."""
    matrices: dict[str, Written] = {}
    width = 0
    for node in graph.node:
        values = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            width = values["K"]
            shape = (values["N"], width)
            note = _padding_note(width, values["block_size"])
            matrices[node.input[1]] = Written("", shape, f"int{values['bits']}", 0, note)
    for node in graph.node:
        values = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "GatherBlockQuantized" and node.input[0] not in matrices:
            # A separate embedding: the node does not have its width, but it is that of the head, the last one above.
            note = _padding_note(width, values["block_size"])
            matrices[node.input[0]] = Written("", (0, width), f"int{values.get('bits', 4)}", 0, note)
    return matrices


def _padding_note(width: int, size: int) -> str:
    if width % size == 0:
        return ""
    return f"rows of {width} are padded to {-(-width // size) * size}: {size} values share a scale"


def _type(kind: int) -> str:
    try:
        name = TensorProto.DataType.Name(kind)
    except ValueError:
        return f"type {kind}"
    return TYPES.get(name, name.lower())


def _bytes(tensor: TensorProto) -> int:
    """Size of the elements as stored; for those in another file, as the tensor states it."""
    if tensor.data_location == TensorProto.EXTERNAL:
        length = next((entry.value for entry in tensor.external_data if entry.key == "length"), "")
        return int(length) if length.isdecimal() and len(length) < 20 else 0
    return len(tensor.raw_data) or tensor.ByteSize()
