"""The portable graph: optimum's export as one small file. It needs torch, transformers and optimum.

Loaded by `converters/onnx.py` for this graph only, so that nothing else needs them. `_onnx_graph.py` has the changes
to the export, and the reasons.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from optimum.exporters.onnx.convert import export as optimum_export
from optimum.exporters.onnx.model_configs import LlamaOnnxConfig
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgekit import __version__
from edgekit.converters import _onnx_graph
from edgekit.errors import RuntimeFailure
from edgekit.formats.checkpoint import Checkpoint
from edgekit.utils.progress import Progress

# Of the two that can be traced, `eager` gives the graph with fewer nodes: no check for NaN after each softmax.
ATTENTION = "eager"


def write(
    checkpoint: Checkpoint, out: Path, quant: str, reduce_range: bool, metadata: Mapping[str, str], progress: Progress
) -> None:
    """Write one `.onnx`: exported, simplified, quantized.

    Args:
        quant: `fp32` or `int8`.
        metadata: the entries of `metadata_props`.

    Raises:
        RuntimeFailure: the exporter failed.
    """
    config = checkpoint.config

    def stages() -> Iterator[None]:
        export(checkpoint, out)
        model = onnx.load(out)
        yield
        _onnx_graph.fold_transposes(model, config)
        model = _onnx_graph.simplify(model)
        yield
        if quant == "int8":
            model = _onnx_graph.quantize(model, reduce_range=reduce_range)
        _onnx_graph.tidy(model, config)
        model.producer_name, model.producer_version = "edgekit", __version__
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        out.write_bytes(model.SerializeToString(deterministic=True))
        yield

    with quiet():
        for _ in progress(stages(), "export, simplify, write", 3):
            pass


def export(checkpoint: Checkpoint, path: Path) -> None:
    """Write optimum's graph of a checkpoint, task text-generation-with-past, float32, to `path`.

    Constants are not folded, so each weight keeps its Hugging Face name and its layout: folding would store a tied
    head a second time (huggingface/optimum#1326). Tracing costs 1.5 s for 12 layers, the imports above 4 s.

    Raises:
        RuntimeFailure: torch or optimum failed; contains its message.
    """
    try:
        with quiet():
            model = build(checkpoint)
            config = LlamaOnnxConfig(model.config, task="text-generation", use_past=True, use_past_in_inputs=True)
            # The dynamic axes need no fix: only batch and lengths are dynamic, which is tested.
            optimum_export(model, config, path, do_constant_folding=False, disable_dynamic_axes_fix=True)
    except OSError:
        raise  # such as a full disk: handled by the caller
    except Exception as error:  # torch.onnx raises a dozen kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeFailure(f"{checkpoint.name}: the export to ONNX failed: {lines[0]}") from error


def build(checkpoint: Checkpoint) -> LlamaForCausalLM:
    """The transformers model of a checkpoint, float32, created without initializing random weights."""
    config = LlamaConfig.from_dict(checkpoint.config.to_dict())
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION)
    weights = {name: torch.from_numpy(np.array(tensor, np.float32, order="C")) for name, tensor in checkpoint}
    model.load_state_dict(weights, strict=not config.tie_word_embeddings, assign=True)
    model.model.rotary_emb = LlamaRotaryEmbedding(config=config)  # computed, not stored: the meta one is empty
    model.tie_weights()
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and logging of the packages behind an export; exceptions pass.

    Tracing warns of every Python condition. `logging.warning` in a library also adds a handler to the root logger,
    which is for the application to choose: it is removed again.
    """
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = before
