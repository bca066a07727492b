"""The learning rate as a function of the optimizer step: there is no state to save or to advance twice.

(Accelerate's scheduler advances once per process; sized in optimizer steps it would end too early on two GPUs.)
"""

import math

from edgekit.training.sections import Schedule


def warmup_steps(schedule: Schedule, total: int) -> int:
    """Steps of the warmup, rounded down: 0.05 of 9,552 is 477, as in Stentor2's model card."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return int((schedule.warmup_ratio or 0.0) * total)


def factor(schedule: Schedule, step: int, total: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total`, as a share of the peak.

    cosine: the warmup up to 1, then half a cosine down to `min_lr_ratio`.
    wsd: the warmup, `stable_ratio` of all steps at 1, then down to `min_lr_ratio` at the last step: linearly, as half a
    cosine, or as 1 - sqrt.
    constant: the warmup, then 1.
    """
    warmup = warmup_steps(schedule, total)
    if step < warmup:
        return (step + 1) / warmup  # not from 0: the first step would change nothing
    if schedule.kind == "constant":
        return 1.0
    stable = int(schedule.stable_ratio * total) if schedule.kind == "wsd" else 0
    if step < warmup + stable:
        return 1.0
    progress = min(1.0, (step - warmup - stable) / max(1, total - warmup - stable))
    shape = "cosine" if schedule.kind == "cosine" else schedule.decay
    down = {"linear": progress, "cosine": 0.5 * (1 - math.cos(math.pi * progress)), "sqrt": math.sqrt(progress)}[shape]
    return 1.0 - (1.0 - schedule.min_lr_ratio) * down
