"""The position of a run and its random state, both saved in checkpoints."""

import math
from dataclasses import dataclass, field

import torch


@dataclass
class Position:
    """How far a run is. All of it is saved."""

    step: int = 0
    epoch: int = 0
    block: int = 0
    """Blocks of the epoch done so far."""
    tokens: int = 0
    skipped: int = 0
    """Optimizer steps skipped because fp16 gradients overflowed."""
    best_loss: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    """Of training, evaluation and saving, over all resumes."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Since the last log row: train loss, steps, seconds."""


def random_state() -> dict[str, torch.Tensor]:
    """The state of torch's generators of this process and its device."""
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
