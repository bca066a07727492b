"""AdamW as Stentor2 uses it: decay on the weights of linear layers, none on biases, norms and embeddings."""

from typing import Any

import torch
from torch import nn

from edgekit.training.recipe import Optimizer


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups, decayed and not. A head tied to the embedding is an embedding: not decayed."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)} - embeddings
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in linear], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in linear], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """The optimizer. Fused on CUDA, where it also takes the loss scale in, and on the CPU, where it is one pass
    over the weights instead of a dozen."""
    return torch.optim.AdamW(
        groups(model, settings.weight_decay),
        lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True,
    )  # fmt: skip
