"""The learning rate as a function of the optimizer step: no state, so nothing to save and nothing to step twice.

(Accelerate's scheduler advances once a process; sized in optimizer steps it would end too early on two GPUs.)
"""

import math

from edgekit.training.sections import Schedule


def warmup_steps(schedule: Schedule, total: int) -> int:
    """Steps of the warmup; the card's 0.05 of 9,552 is 477."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return int((schedule.warmup_ratio or 0.0) * total)


def factor(schedule: Schedule, step: int, total: int) -> float:
    """The share of the peak learning rate that optimizer step `step` uses, counted from 0, of `total`.

    cosine: up to 1 over the warmup, then half a cosine down to `min_lr_ratio`.
    wsd: the warmup, `stable_ratio` of all steps at 1, and down to `min_lr_ratio` at the last step, in a line, half a
    cosine, or as 1 - sqrt. constant: the warmup, then 1.
    """
    warmup = warmup_steps(schedule, total)
    if step < warmup:
        return (step + 1) / warmup  # not from 0: the first step would change nothing
    if schedule.kind == "constant":
        return 1.0
    stable = int(schedule.stable_ratio * total) if schedule.kind == "wsd" else 0
    if step < warmup + stable:
        return 1.0
    way = min(1.0, (step - warmup - stable) / max(1, total - warmup - stable))
    shape = "cosine" if schedule.kind == "cosine" else schedule.decay
    down = {"linear": way, "cosine": 0.5 * (1 - math.cos(math.pi * way)), "sqrt": math.sqrt(way)}[shape]
    return 1.0 - (1.0 - schedule.min_lr_ratio) * down
