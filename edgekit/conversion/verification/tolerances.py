"""The limits of a sound conversion, by the type of its weights, and why: the one table of thresholds.

A conversion is verified in two steps that work for every model, flat or peaked, trained or not:

rows    each row of each tensor, read back from the artefact, is no further from the source's than its type explains:
        the length of the difference over the length of the row. For a type that splits a block of n values into
        steps of 1/L of the largest, rounding moves each by at most 1/2L of it, and the block is at least as long as
        its largest value: sqrt(n) / 2L. No data, however unlucky, exceeds that. A matrix that was permuted,
        transposed, swapped or zeroed has 1 and more.
noise   the runtime's logits are no further from those that `reference.py` computes from the artefact's own tensors
        than rounding inside the runtime explains: `Figures.logit_error`, which is 1.4 for unrelated logits. The same
        bound applies to many tokens at once, compared with one by one.

So the loss of 4 bits, which is large in a small model and not a fault, is told from a fault of any size. If the tensors
cannot be read back (a graph that other programs wrote), the logits are compared with the source's:

logits, kl   `logit_error` and mean KL against the source.

Measured: every type on stories260K (trained, 260,032 parameters; small models lose most) and the bundled model, on a
seeded model of Stentor2-12M's shape, and on seeded models of 3 layers whose weights are so large that they amplify
every error. The figures at a type are the worst of all, most of them from the latter.
"""

import re
from typing import NamedTuple

SMALLEST_HALF = 2.0**-25
"""The most by which rounding to float16 moves a value near zero; block types keep their scales in it."""


class Limit(NamedTuple):
    rows: float
    noise: float
    logits: float
    kl: float
    """Nats a token."""
    steps: int = 0
    """Steps of a block that its float16 scale is multiplied by; 0 without such a scale."""


LIMITS = {
    # Bit for bit the source's; runtimes add in another order. Measured: logits 1.5e-5, KL 3e-9.
    "f32": Limit(1e-6, 1e-3, 1e-3, 1e-4),
    # Rounded to 11 bits: 2^-12 to 2^-11. llama.cpp rounds activations likewise. Measured: logits 0.0135, KL 1.8e-3.
    "f16": Limit(6e-4, 0.05, 0.05, 0.02, 1),
    # 8 bits: 2^-8. Measured: logits 0.084, KL 0.075.
    "bf16": Limit(4e-3, 0.2, 0.2, 0.3),
    # sqrt(32) / 254 = 0.0223. Activations are rounded in the same way. Measured: rows 0.0083, logits 0.2, KL 0.43.
    "q8_0": Limit(0.025, 0.4, 0.4, 0.8, 127),
    # The portable graph's: one scale for each column, one for all activations of a call. `row_limit` knows the width.
    # Measured: logits 0.25, KL 0.71, between prefill and steps 0.19.
    "int8": Limit(0.15, 0.6, 0.6, 1.2),
    # Blocks of 16, 32 steps to each side: 0.0625, and scales of 8 bits. Measured: rows 0.022.
    "q6_k": Limit(0.08, 0.4, 0.6, 1.0, 127 * 32),
    # sqrt(32) / 32 = 0.177. Measured: rows 0.066, on amplifying models logits 0.65.
    "q5_0": Limit(0.2, 0.4, 0.9, 1.0, 16),
    "q5_1": Limit(0.2, 0.4, 0.9, 1.0, 31),
    # As q5_1 with scales of 6 bits. Measured: rows 0.044.
    "q5_k": Limit(0.25, 0.4, 0.9, 1.0, 63 * 31),
    # sqrt(32) / 16 = 0.354. Measured: rows 0.14; logits 0.1 on stories260K, 0.9 on the most amplifying model.
    "q4_0": Limit(0.4, 0.4, 1.1, 1.5, 8),
    "q4_1": Limit(0.4, 0.4, 1.1, 1.5, 15),
    "iq4_nl": Limit(0.4, 0.4, 1.1, 1.5, 127),
    "iq4_xs": Limit(0.45, 0.4, 1.1, 1.5, 127 * 32),
    # As q4_1 with scales of 6 bits. Measured: rows 0.087.
    "q4_k": Limit(0.45, 0.4, 1.1, 1.5, 63 * 15),
    # Blocks of 32 unless the file says otherwise; 7 steps to each side, and rounding that looks for the least error.
    "int4": Limit(0.47, 0.6, 1.1, 1.5),
    # Blocks of 16, 4 steps to each side: 0.5, and scales of 6 bits. Measured: rows 0.19.
    "q3_k": Limit(0.6, 0.4, 1.2, 2.0, 32 * 4),
    # 3 steps and a minimum. Measured: rows 0.37, logits 0.93.
    "q2_k": Limit(0.9, 0.4, 1.3, 3.0, 15 * 3),
}  # fmt: skip

# For a type that is not in this table: everything passes that is not practically unrelated.
UNKNOWN = Limit(1.0, 0.6, 1.3, 3.0, 127)

MOST = 0.7
"""The most that any type may lose. A wrong row has 1 and more; long blocks of few bits never come close to that."""

NAMES = {
    "fp32": "f32",
    "float": "f32",
    "fp16": "f16",
    "float16": "f16",
    "int4_pure": "int4",
    "q8_1": "q8_0",
    "q8_k": "q8_0",
}


def limit_of(kind: str) -> Limit:
    """The limits of a type as a format or `--quant` names it; see `row_limit` for "int4/32" and the like."""
    name = kind.lower()
    return LIMITS.get(NAMES.get(name, name).partition("/")[0], UNKNOWN)


def row_limit(kind: str, width: int, weighted: bool = False) -> float:
    """`Limit.rows` of a tensor whose rows have `width` values.

    "int8/32" is 8 bits with a scale for each 32 values; plain "int8" has one for the whole row.

    Args:
        weighted: it was rounded by importance. Then a row may lose more than by plain rounding, in columns that do
            not count: measured, if a tenth of the columns counts 10**6 times as much, 0.5 for q4_1, 0.13 for q6_k, 0.77
            for q2_k. Types of 8 bits and more are not rounded that way.
    """
    if weighted and (rows := limit_of(kind).rows) > LIMITS["q8_0"].rows:
        return max(rows, MOST)
    match = re.fullmatch(r"int(\d)(?:/(\d+))?", kind.lower())
    if not match:
        return limit_of(kind).rows
    # One step less to each side than the bits allow (`reduce_range`: one bit less), and a margin for scale searches.
    steps = 2 ** (int(match[1]) - 1) - 1 if match[2] else 63
    return min(MOST, 1.15 * min(width, int(match[2] or width)) ** 0.5 / (2 * steps))


def smallest(kind: str) -> float:
    """The most by which the float16 scale of a type moves any value, however small the row: 0 for most."""
    return limit_of(kind).steps * SMALLEST_HALF


def coarsest(kinds: list[str]) -> str:
    """The type with the widest limits; "f32" if there is none."""
    return max(kinds, key=lambda kind: limit_of(kind).rows, default="f32")
