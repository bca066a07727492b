"""Where two models diverge: half a layer at a time, and the usual faults of graphs tried on the source."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgekit.conversion.verification.metrics import logit_error
from edgekit.conversion.verification.tolerances import limit_of
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.gguf_tensors import deinterleave
from edgekit.inference.reference import Reference
from edgekit.inference.runtime import Logits

BASES = (10_000.0, 500_000.0, 1_000_000.0, 100_000.0, 50_000.0)
"""Bases of rotary embeddings that models have, the defaults of converters that ignore the key among them."""
EPSILONS = (1e-5, 1e-6, 1e-12)
ENOUGH = 64
"""Tokens that are enough to tell one fault from another."""


@dataclass(frozen=True)
class Layer:
    """One part of the model: how the artefact's output differs for the same hidden state."""

    name: str
    """"embedding", "layer 3 attention", "layer 3 ffn", "head"."""
    error: float
    """Root mean square of the difference over that of the source's."""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def layers(source: Reference, own: Reference, tokens: Sequence[int]) -> Iterator[Layer]:
    """Each part of two models, both given the *source's* hidden state, so that one fault shows in one place.

    Args:
        own: the artefact's own tensors under its own configuration.
        tokens: at most a window.
    """
    yield Layer("embedding", distance(source.embed(tokens), own.embed(tokens)))
    hidden = source.embed(tokens)
    for hidden, part in source.parts(tokens):
        update = own.part(part.layer, part.name, hidden)
        yield Layer(f"layer {part.layer} {part.name}", distance(part.update, update))
    # `hidden` was updated in place: after the last part it is the input of the head.
    yield Layer("head", distance(source.head(hidden), own.head(hidden)))


def distance(expected: np.ndarray, actual: np.ndarray) -> float:
    """Length of the difference over the length of `expected`; infinite if `actual` is not finite."""
    length = float(np.linalg.norm(expected.astype(np.float64)))
    apart = float(np.linalg.norm(actual.astype(np.float64) - expected))
    if not np.isfinite(apart) or (apart and not length):
        return np.inf
    return apart / length if length else 0.0


def departs(kind: str) -> float:
    """The error from which a part counts as different: three times what the rows of its type may lose."""
    return max(1e-3, min(3 * limit_of(kind).rows, 1.0))


def guess(source: Checkpoint, tokens: Sequence[int], logits: Logits) -> str:
    """What is wrong with a graph, if one of the usual faults gives the artefact's logits; else "".

    Args:
        source: the artefact's own tensors, or the source's if those cannot be read.
        tokens, logits: what the artefact was fed from an empty cache, and its logits after each, (n, vocab_size).
    """
    tokens, logits = tokens[:ENOUGH], logits[:ENOUGH]
    plain = _error(source, tokens, logits)
    errors = [(_error(variant, tokens, logits), fault) for variant, fault in faults(source)]
    best, fault = min(errors, default=(plain, ""))
    return fault if best < plain / 4 else ""


def faults(source: Checkpoint) -> Iterator[tuple[Checkpoint, str]]:
    """The source with one fault each, and its name."""
    config = source.config
    for base in BASES:
        if base != config.rope_theta:
            other = dataclasses.replace(config, rope_theta=base)
            yield _with(source, config=other), f"its rotary base is {base:g}, the source's {config.rope_theta:g}"
    for epsilon in EPSILONS:
        if epsilon != config.rms_norm_eps:
            other = dataclasses.replace(config, rms_norm_eps=epsilon)
            yield (
                _with(source, config=other),
                f"its RMSNorm epsilon is {epsilon:g}, the source's {config.rms_norm_eps:g}",
            )
    turned, swapped, width = dict(source.tensors), dict(source.tensors), config.head_dim
    for name, tensor in source:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            turned[name] = deinterleave(tensor, width)
        elif name.endswith("gate_proj.weight"):
            up = name.replace("gate_proj", "up_proj")
            swapped[name], swapped[up] = source.tensors[up], tensor
    yield _with(source, tensors=turned), "query and key rows are not permuted for its rotary embedding"
    yield _with(source, tensors=swapped), "gate and up are swapped"


def _with(source: Checkpoint, **changes: Any) -> Checkpoint:
    return dataclasses.replace(source, **changes)


def _error(checkpoint: Checkpoint, tokens: Sequence[int], logits: Logits) -> float:
    return logit_error(Reference(checkpoint).forward(tokens, every=True), logits)
