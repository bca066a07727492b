"""The optimizers: AdamW as Stentor2 uses it, and Muon, which learns more from each token.

Only the weights of linear layers decay, not biases, norms and embeddings.
"""

from typing import Any, cast

import torch
from torch import nn

from edgekit.errors import RecipeError
from edgekit.training.sections import Optimizer


def make(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameters of `model`. Raises `RecipeError` if torch has no Muon."""
    decayed, rest = groups(model, settings.weight_decay)
    if settings.algorithm == "adamw":
        return adamw([decayed, rest], settings)
    if not hasattr(torch.optim, "Muon"):
        raise RecipeError(f"optimizer.algorithm muon needs torch 2.9 or later; this is {torch.__version__}")
    # Its update is scaled to the size of AdamW's (Moonlight, arXiv 2502.16982), so that one learning rate serves both.
    muon = torch.optim.Muon(
        decayed["params"], lr=settings.learning_rate, weight_decay=settings.weight_decay,
        momentum=settings.momentum, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return cast(torch.optim.Optimizer, CombinedOptimizer(muon, adamw([rest], settings)))


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: with weight decay and without. An output matrix tied to the embedding does not decay."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)} - embeddings
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in linear], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in linear], "weight_decay": 0.0},
    ]


def adamw(parameters: list[dict[str, Any]], settings: Optimizer) -> torch.optim.AdamW:
    """Fused: on CUDA it also applies the loss scale, on the CPU it is one pass over the weights instead of a dozen."""
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True)


class CombinedOptimizer:
    """Several optimizers, each for its own parameters, with the methods that the loop and GradScaler use."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
