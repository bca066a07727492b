"""What an artefact's tensors hold, against the source's: where a conversion went wrong, in words.

Logits tell that something is broken; tensors tell what. A block type may move a row by no more than a share of its
length that follows from its number of levels (`limits.py`), so even among the noise of 4 bits a single matrix
that was permuted, transposed, swapped or scaled wrongly stands out, and the known ways of getting it wrong are tried
on the source until one gives what the artefact holds.
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
"""Where a tensor is counted, by a part of its name; the first that fits."""


class Difference(NamedTuple):
    """How one tensor differs from the source's."""

    name: str
    type: str
    error: float
    """Root mean square of the difference over that of the source's values."""
    worst_row: float
    """The same of the row where it is largest."""
    limit: float
    """What no row of a sound conversion to this type passes."""

    @property
    def sound(self) -> bool:
        return self.worst_row <= self.limit


def group_of(name: str) -> str:
    """embedding, head, norms, attention or ffn."""
    return next(group for part, group in GROUPS.items() if part in name)


def compare(
    source: Mapping[str, NDArray], held: Iterable[ArtefactTensor], weighted: bool = False
) -> Iterator[tuple[Difference, ArtefactTensor]]:
    """Each tensor of an artefact against the source's; one is in memory at a time. Both are (rows, width) or (width,).

    A tensor of another shape, or one that is not finite, differs infinitely. `weighted`: rounded by importance.
    """
    for tensor in held:
        wanted = np.asarray(source[tensor.name], np.float32)
        limit = row_limit(tensor.type, wanted.shape[-1], weighted)
        if tensor.values.shape != wanted.shape or not np.isfinite(tensor.values).all():
            yield Difference(tensor.name, tensor.type, np.inf, np.inf, limit), tensor
            continue
        errors, lengths = row_errors(wanted, tensor.values)
        allowed = smallest(tensor.type) * wanted.shape[-1] ** 0.5
        over = np.maximum(errors - allowed, 0)
        worst = np.divide(over, lengths, out=np.where(over > 0, np.inf, 0.0), where=lengths > 0).max(initial=0.0)
        whole = float(np.sqrt(np.square(lengths).sum()))
        error = float(np.sqrt(np.square(errors).sum()) / whole) if whole else 0.0
        yield Difference(tensor.name, tensor.type, error, float(worst), limit), tensor


def row_errors(source: Array, held: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths of each row's difference and of each row of the source: float64 (rows,), one row for a vector."""
    source, held = np.atleast_2d(source), np.atleast_2d(held)
    difference = held - source
    errors = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    lengths = np.einsum("ij,ij->i", source, source, dtype=np.float64)
    return np.sqrt(errors), np.sqrt(lengths)


# ----------------------------------------------------------------------------- in words


def place(name: str) -> tuple[str, str]:
    """Where a tensor belongs and what it is there: ("layer 3 attention", "query")."""
    if name in WHOLE:
        return WHOLE[name], ""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    assert match, name
    part, what = PARTS[match[2]]
    return f"layer {match[1]} {part}", what


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
        limits: how far each may lie from what explains it.
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
    mine, held = np.asarray(source[name], np.float32), broken[name].values
    noun = f"the {what} matrix" if what not in ("", "norm") else "it" if not what else "the norm"
    if held.shape != mine.shape:
        return f"{noun} has shape {list(held.shape)}, the source's {list(mine.shape)}"
    if not np.isfinite(held).all():
        return f"{noun} has {int((~np.isfinite(held)).sum())} values that are NaN or infinite"
    if not held.any():
        return f"{noun} is all zeros"
    if what in ("query", "key"):
        width = config.head_dim
        if fits(deinterleave(mine, width), held, limit):
            return f"{what} rows are not permuted"
        if fits(interleave(mine, width), held, limit):
            return f"{what} rows are permuted once too often"
    if mine.ndim == 2 and fits(np.ascontiguousarray(mine.T).reshape(mine.shape), held, limit):
        return f"{noun} is transposed"
    if other := _whose(name, source, held, limit):
        back = broken.get(other)
        there, its = place(other)
        if back is not None and fits(mine, back.values, limit):
            return f"{what} and {its} are swapped" if there == place(name)[0] else f"{noun} and {there}'s are swapped"
        return f"{noun} holds the values of {there}'s {its}".rstrip()
    return _scaled(mine, held, limit, noun) or f"{noun} holds other values ({_share(mine, held)} of their size apart)"


def fits(candidate: Array, held: Array, limit: float) -> bool:
    """Whether each row of `held` is that of `candidate`, as nearly as its type can say it."""
    if candidate.shape != held.shape:
        return False
    errors, lengths = row_errors(candidate, held)
    typical = np.sqrt(np.square(lengths).mean())
    return bool((errors <= max(limit, 1e-6) * np.maximum(lengths, 1e-3 * typical)).all())


def _whose(name: str, source: Mapping[str, NDArray], held: Array, limit: float) -> str:
    """The other tensor of the source whose values these are; those of the same layer are asked first."""
    layer = re.match(r"model\.layers\.\d+\.", name)
    near = layer[0] if layer else name
    others = sorted((n for n in source if n != name and source[n].shape == held.shape), key=lambda n: near not in n)
    return next((n for n in others if fits(np.asarray(source[n], np.float32), held, limit)), "")


def _scaled(mine: Array, held: Array, limit: float, noun: str) -> str:
    """Whether the values are the source's but for factors: one for all, one a row, or one for each 32 of a row."""
    rows, width = np.atleast_2d(mine).shape
    for size, unit in ((rows * width, ""), (width, "rows"), (32, "blocks of 32")):
        if width % size and size != rows * width:
            continue
        a, b = mine.reshape(-1, size).astype(np.float64), held.reshape(-1, size).astype(np.float64)
        squares = np.square(a).sum(-1)
        factors = np.divide((a * b).sum(-1), squares, out=np.ones(len(a)), where=squares > 0)
        if not fits((a * factors[:, None]).astype(np.float32).reshape(mine.shape), held, limit):
            continue
        if not unit:
            return f"{noun} is {factors[0]:.4g} times the source's: its scale is stale"
        wrong = int((np.abs(factors - 1) > max(limit, 1e-6)).sum())
        if wrong:
            return f"{noun} has the wrong scale in {wrong} of {len(a)} {unit}: stale scales"
    return ""


def _share(mine: Array, held: Array) -> str:
    errors, lengths = row_errors(mine, held)
    whole = np.sqrt(np.square(lengths).sum())
    return f"{np.sqrt(np.square(errors).sum()) / whole:.2g}" if whole else "infinitely many"
