"""Where a run is: what a checkpoint holds beside the weights, the optimizer and the scaler."""

import math
from dataclasses import dataclass, field

import torch


@dataclass
class Position:
    """Where a run is, and what it has seen; all of it is saved."""

    step: int = 0
    epoch: int = 0
    block: int = 0
    """Blocks of the epoch that are done."""
    tokens: int = 0
    skipped: int = 0
    """Optimizer steps left out because fp16 gradients overflowed."""
    best_loss: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    """Of training, evaluation and saving, over all resumes."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Since the last log row: train loss, steps, seconds."""


def random_state() -> dict[str, torch.Tensor]:
    """Of this process and its device."""
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """What `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
