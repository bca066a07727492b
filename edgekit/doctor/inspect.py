"""The verb `inspect`: a description of a model folder or an artefact, as text and as JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.conversion import base, receipt
from edgekit.conversion.base import PlansTensors, Written, converter
from edgekit.conversion.verification.tensors import group_of
from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.formats import embedded, gguf, gguf_config
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.formats.embedded import FILES
from edgekit.tokenizers.load import from_files
from edgekit.utils import registry
from edgekit.utils.files import read_bytes
from edgekit.utils.guard import reads


@reads()
def describe(path: Path) -> dict[str, Any]:
    """Everything that `report` prints, as plain values for JSON.

    Raises:
        CheckpointError: not a model, or a damaged one.
        MissingExtraError: a `.onnx` without the package `onnx`.
    """
    path = Path(path)
    readers = {"hf": _describe_folder, "gguf": _describe_gguf, "onnx": _describe_onnx}
    return readers[registry.for_path("converters", path)](path)


def parameters(config: LlamaConfig) -> dict[str, int]:
    """Number of parameters by group; a tied head is counted once, as the embedding."""
    counts: Counter[str] = Counter()
    for name, shape in config.shapes().items():
        counts[group_of(name)] += int(np.prod(shape))
    return dict(counts)


def _describe_folder(path: Path) -> dict[str, Any]:
    checkpoint: Checkpoint = open_folder(path)
    width = {"F32": 4, "F16": 2, "BF16": 2}
    tensors = [
        Written(name, shape, checkpoint.dtypes[name], int(np.prod(shape)) * width[checkpoint.dtypes[name]])
        for name, shape in checkpoint.config.shapes().items()
    ]
    facts = _facts(checkpoint.name, "Hugging Face folder", checkpoint.config, checkpoint.files, tensors)
    stored = path / embedded.RECEIPT_FILE
    return facts | {
        "metadata": {"source.sha256": checkpoint.sha256},
        "receipt": receipt.parse(read_bytes(stored)) if stored.is_file() else None,
        "size_as_gguf": _sizes(checkpoint.config),
    }


def _sizes(config: LlamaConfig) -> dict[str, int]:
    """Bytes of the weights in each type of GGUF that is written without llama.cpp; empty without the converter."""
    try:
        module = converter("gguf")
    except MissingExtraError:
        return {}
    if not isinstance(module, PlansTensors):
        return {}
    return {quant: sum(tensor.bytes for tensor in module.planned(config, quant)) for quant in module.DIRECT}


def _describe_gguf(path: Path) -> dict[str, Any]:
    file = gguf.GGUFFile(path)
    config, files = gguf_config.llama_config(file), file.files()
    tensors = [Written(t.name, t.shape, t.type, t.bytes) for t in file.tensors.values()]
    metadata = _shown(file.metadata, files)
    name = str(file.metadata.get("general.name", path.stem))
    facts = _facts(name, f"GGUF v{file.version}", config, files, tensors)
    if not facts["vocabulary"]:
        tokens = file.metadata.get("tokenizer.ggml.tokens", [])
        facts["vocabulary"] = {"kind": file.metadata.get("tokenizer.ggml.model"), "ids": len(tokens)}
    stored = receipt.parse(file.metadata.get(embedded.RECEIPT))
    return facts | {"metadata": metadata, "receipt": stored, "bytes": path.stat().st_size}


def _describe_onnx(path: Path) -> dict[str, Any]:
    metadata, tensors, nodes = base.describe("onnx", path)
    files = embedded.files_in_texts(metadata, path)
    config = None
    if "config.json" in files:
        config = LlamaConfig.from_dict(json.loads(files["config.json"]), f"{path}: config.json")
    shown = _shown(metadata, files)
    return _facts(path.stem, "ONNX", config, files, tensors) | {
        "metadata": shown, "receipt": receipt.parse(metadata.get(embedded.RECEIPT)), "bytes": path.stat().st_size,
        "nodes": dict(nodes),
    }  # fmt: skip


def _facts(
    name: str, format: str, config: LlamaConfig | None, files: Mapping[str, bytes], tensors: list[Written]
) -> dict[str, Any]:
    sizes: dict[str, dict[str, int]] = {}
    for t in tensors:
        entry = sizes.setdefault(t.type, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += t.bytes
    counts = parameters(config) if config else {}
    return {
        "name": name,
        "format": format,
        "architecture": "llama" if config else None,
        "parameters": {"total": sum(counts.values()), **counts} if config else None,
        "config": config.to_dict() if config else None,
        "vocabulary": _vocabulary(config, files) if config else {},
        "weights_bytes": sum(t.bytes for t in tensors),
        "size_by_type": sizes,
        "tensors": [{"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.bytes} for t in tensors],
    }


def _vocabulary(config: LlamaConfig, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Facts about the tokenizer. Its error is one, too, because the weights may still be of use."""
    if not any(name in files for name in FILES):
        return {}
    try:
        tokenizer = from_files(files, config.vocab_size)
    except EdgekitError as error:
        return {"error": str(error)}
    return tokenizer.facts() | {"ids": config.vocab_size, "bos": tokenizer.bos, "stop": sorted(tokenizer.stop)}


def _shown(metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """An artefact's metadata, embedded files by their size; without the receipt, which is shown in words."""
    carried = {embedded.FILE + name: f"<{len(data):,} bytes>" for name, data in files.items()}
    shown = {key: value for key, value in metadata.items() if key != embedded.RECEIPT}
    return {key: carried[key] if key in carried else _short(value) for key, value in shown.items()}


def _short(value: Any) -> Any:
    """Metadata for display: long arrays and texts are replaced by their length."""
    if isinstance(value, str):
        return value if len(value) <= 100 else f"<{len(value)} characters>"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return f"<{len(value)} values>" if len(value) > 8 else [_short(v) for v in value]
    return value


def report(model: dict[str, Any], *, tensors: bool = True) -> str:
    """The description as text."""
    lines = [f"{model['name']} · {model['format']} · {model['architecture'] or 'architecture not stated'}"]
    if count := model["parameters"]:
        lines.append(f"\nparameters  {count['total']:>12,}")
        for group, n in count.items():
            if group != "total":
                tied = "  (also the head)" if group == "embedding" and model["config"]["tie_word_embeddings"] else ""
                lines.append(f"  {group:<10}{n:>12,}  {100 * n / count['total']:5.1f} %{tied}")
    if c := model["config"]:
        lines.append(
            f"\nshape       hidden {c['hidden_size']} · {c['num_hidden_layers']} layers · "
            f"{c['num_attention_heads']} heads of {c['head_dim']} ({c['num_key_value_heads']} key/value) · "
            f"FFN {c['intermediate_size']} · context {c['max_position_embeddings']:,}\n"
            f"            rope theta {c['rope_theta']:g} · RMSNorm epsilon {c['rms_norm_eps']:g} · "
            f"{'tied' if c['tie_word_embeddings'] else 'untied'} head"
        )
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in model["vocabulary"].items() if value is not None]
    lines += _wrapped("vocabulary", facts or ["none"])
    sizes = [f"{kind} {e['bytes'] / 1e6:.2f} MB in {e['tensors']}" for kind, e in model["size_by_type"].items()]
    lines += _wrapped("weights", [f"{model['weights_bytes'] / 1e6:.2f} MB in all", *sizes])
    if model.get("size_as_gguf"):
        lines += _wrapped("as gguf", [f"{quant} {size / 1e6:.2f} MB" for quant, size in model["size_as_gguf"].items()])
    if "bytes" in model:
        lines.append(f"file        {model['bytes'] / 1e6:.2f} MB")
    if "nodes" in model:
        cache = model["metadata"].get("edgekit.kv_cache")
        lines.append(f"graph       {sum(model['nodes'].values())} nodes" + (f" · KV cache {cache}" if cache else ""))
    if model.get("receipt"):
        lines.append("\nreceipt")
        lines += [f"  {line}" for line in receipt.summary_lines(model["receipt"])]
    if model.get("metadata"):
        lines.append("\nmetadata")
        lines += [f"  {key} = {value}" for key, value in model["metadata"].items()]
    if tensors:
        width = max((len(t["name"]) for t in model["tensors"]), default=0)
        lines.append("\ntensors")
        for t in model["tensors"]:
            shape = " x ".join(map(str, t["shape"])) or "scalar"
            lines.append(f"  {t['name']:<{width}}  {shape:>14}  {t['type']:<5} {t['bytes']:>12,}")
    return "\n".join(lines)


def _wrapped(title: str, facts: list[str], width: int = 110) -> list[str]:
    """Facts separated by dots, wrapped to some width, after a title."""
    lines = [f"{title:<12}{facts[0]}"]
    for fact in facts[1:]:
        if len(lines[-1]) + len(fact) + 3 > width:
            lines.append(" " * 12 + fact)
        else:
            lines[-1] += f" · {fact}"
    return lines
