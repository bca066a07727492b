"""An artefact's tensors, compared with the source's, and what went wrong with a conversion, in words.

Logits tell that something is broken; tensors tell what. A block type may move a row by no more than a share of its
length that follows from its number of levels (`tolerances.py`), so even among the noise of 4 bits a single matrix that
was permuted, transposed, swapped or scaled wrongly stands out. The known mistakes are then tried on the source until
one gives the artefact's values.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.conversion.base import ArtefactTensor
from edgekit.conversion.verification.tolerances import row_limit, smallest
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf_tensors import deinterleave, interleave

Array = NDArray[np.float32]

PARTS = {
    "input_layernorm": ("attention", "norm"),
    "self_attn.q_proj": ("attention", "query"),
    "self_attn.k_proj": ("attention", "key"),
    "self_attn.v_proj": ("attention", "value"),
    "self_attn.o_proj": ("attention", "output"),
    "post_attention_layernorm": ("ffn", "norm"),
    "mlp.gate_proj": ("ffn", "gate"),
    "mlp.up_proj": ("ffn", "up"),
    "mlp.down_proj": ("ffn", "down"),
}
WHOLE = {
    "model.embed_tokens.weight": "the embedding",
    "model.norm.weight": "the last norm",
    "lm_head.weight": "the head",
}
GROUPS = {"embed_tokens": "embedding", "lm_head": "head", "norm": "norms", "self_attn": "attention", "mlp": "ffn"}
"""Part of a tensor's name -> its group; the first match counts."""


class Difference(NamedTuple):
    """How one tensor differs from the source's."""

    name: str
    type: str
    error: float
    """Root mean square of the difference over that of the source's values."""
    worst_row: float
    """The same for the row where it is largest."""
    limit: float
    """What no row of a sound conversion to this type exceeds."""

    @property
    def sound(self) -> bool:
        return self.worst_row <= self.limit


def group_of(name: str) -> str:
    """embedding, head, norms, attention or ffn."""
    return next(group for part, group in GROUPS.items() if part in name)


def compare(
    source: Mapping[str, NDArray], tensors: Iterable[ArtefactTensor], weighted: bool = False
) -> Iterator[tuple[Difference, ArtefactTensor]]:
    """Compare each tensor of an artefact with the source's, one at a time. Both are (rows, width) or (width,).

    A tensor of another shape, or one that is not finite, differs infinitely. `weighted`: rounded by importance.
    """
    for tensor in tensors:
        expected = np.asarray(source[tensor.name], np.float32)
        limit = row_limit(tensor.type, expected.shape[-1], weighted)
        if tensor.values.shape != expected.shape or not np.isfinite(tensor.values).all():
            yield Difference(tensor.name, tensor.type, np.inf, np.inf, limit), tensor
            continue
        errors, lengths = row_errors(expected, tensor.values)
        allowed = smallest(tensor.type) * expected.shape[-1] ** 0.5
        over = np.maximum(errors - allowed, 0)
        worst = np.divide(over, lengths, out=np.where(over > 0, np.inf, 0.0), where=lengths > 0).max(initial=0.0)
        whole = float(np.sqrt(np.square(lengths).sum()))
        error = float(np.sqrt(np.square(errors).sum()) / whole) if whole else 0.0
        yield Difference(tensor.name, tensor.type, error, float(worst), limit), tensor


def row_errors(source: Array, actual: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths of each row's difference and of each row of the source: float64 (rows,), one row for a vector."""
    source, actual = np.atleast_2d(source), np.atleast_2d(actual)
    difference = actual - source
    errors = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    lengths = np.einsum("ij,ij->i", source, source, dtype=np.float64)
    return np.sqrt(errors), np.sqrt(lengths)


# ----------------------------------------------------------------------------- in words


def place(name: str) -> tuple[str, str]:
    """The part of the model that a tensor belongs to, and its role there: ("layer 3 attention", "query")."""
    if name in WHOLE:
        return WHOLE[name], ""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        raise KeyError(name)
    part, what = PARTS[match[2]]
    return f"layer {match[1]} {part}", what + " bias" * (match[3] == "bias")


def explain(
    source: Mapping[str, NDArray],
    broken: Mapping[str, ArtefactTensor],
    config: LlamaConfig,
    limits: Mapping[str, float],
) -> str:
    """One sentence on the first of the tensors that differ, and how many more do.

    Args:
        source: the checkpoint's tensors.
        broken: those of the artefact's that differ, in the model's order.
        limits: how far each may be from the values that explain it.
    """
    name = next(iter(broken))
    where, what = place(name)
    count = len(broken) - 1
    more = f" ({count} more tensor{'s differ' if count > 1 else ' differs'})" if count else ""
    return f"{where} differs: {_reason(name, what, source, broken, config, limits[name])}{more}"


def _reason(
    name: str,
    what: str,
    source: Mapping[str, NDArray],
    broken: Mapping[str, ArtefactTensor],
    config: LlamaConfig,
    limit: float,
) -> str:
    expected, actual = np.asarray(source[name], np.float32), broken[name].values
    noun = f"the {what} matrix" if what not in ("", "norm") else "it" if not what else "the norm"
    if actual.shape != expected.shape:
        return f"{noun} has shape {list(actual.shape)}, the source's {list(expected.shape)}"
    if not np.isfinite(actual).all():
        return f"{noun} has {int((~np.isfinite(actual)).sum())} values that are NaN or infinite"
    if not actual.any():
        return f"{noun} is all zeros"
    if what in ("query", "key"):
        width = config.head_dim
        if fits(deinterleave(expected, width), actual, limit):
            return f"{what} rows are not permuted"
        if fits(interleave(expected, width), actual, limit):
            return f"{what} rows are permuted once too often"
    if expected.ndim == 2 and fits(np.ascontiguousarray(expected.T).reshape(expected.shape), actual, limit):
        return f"{noun} is transposed"
    if other := _tensor_with_values(name, source, actual, limit):
        back = broken.get(other)
        there, its = place(other)
        if back is not None and fits(expected, back.values, limit):
            return f"{what} and {its} are swapped" if there == place(name)[0] else f"{noun} and {there}'s are swapped"
        return f"{noun} holds the values of {there}'s {its}".rstrip()
    return (
        _scaled(expected, actual, limit, noun)
        or f"{noun} holds other values ({_share(expected, actual)} of their size apart)"
    )


def fits(candidate: Array, actual: Array, limit: float) -> bool:
    """Whether each row of `actual` is that of `candidate`, as exactly as its type can store it."""
    if candidate.shape != actual.shape:
        return False
    errors, lengths = row_errors(candidate, actual)
    typical = np.sqrt(np.square(lengths).mean())
    return bool((errors <= max(limit, 1e-6) * np.maximum(lengths, 1e-3 * typical)).all())


def _tensor_with_values(name: str, source: Mapping[str, NDArray], actual: Array, limit: float) -> str:
    """The other tensor of the source with these values, or ""; those of the same layer are tried first."""
    layer = re.match(r"model\.layers\.\d+\.", name)
    near = layer[0] if layer else name
    others = sorted((n for n in source if n != name and source[n].shape == actual.shape), key=lambda n: near not in n)
    return next((n for n in others if fits(np.asarray(source[n], np.float32), actual, limit)), "")


def _scaled(expected: Array, actual: Array, limit: float, noun: str) -> str:
    """In words, if the values are the source's times a factor: one for all, one a row, or one for each 32 of a row."""
    rows, width = np.atleast_2d(expected).shape
    for size, unit in ((rows * width, ""), (width, "rows"), (32, "blocks of 32")):
        if width % size and size != rows * width:
            continue
        a, b = expected.reshape(-1, size).astype(np.float64), actual.reshape(-1, size).astype(np.float64)
        squares = np.square(a).sum(-1)
        factors = np.divide((a * b).sum(-1), squares, out=np.ones(len(a)), where=squares > 0)
        if not fits((a * factors[:, None]).astype(np.float32).reshape(expected.shape), actual, limit):
            continue
        if not unit:
            return f"{noun} is {factors[0]:.4g} times the source's: its scale is stale"
        wrong = int((np.abs(factors - 1) > max(limit, 1e-6)).sum())
        if wrong:
            return f"{noun} has the wrong scale in {wrong} of {len(a)} {unit}: stale scales"
    return ""


def _share(expected: Array, actual: Array) -> str:
    errors, lengths = row_errors(expected, actual)
    whole = np.sqrt(np.square(lengths).sum())
    return f"{np.sqrt(np.square(errors).sum()) / whole:.2g}" if whole else "infinitely many"
