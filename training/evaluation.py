"""Loss on validation blocks by corpus and in total, also in bits per byte, which is comparable across vocabularies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from edgekit.training.model import Llama
from edgekit.training.precision import autocast
from edgekit.training.progress import Meter, silent


@dataclass(frozen=True)
class ValidationScore:
    loss: float
    """Mean cross entropy in nats per predicted token."""
    tokens: int
    """Tokens predicted."""
    bits_per_byte: float
    """Of the cleaned text. The cost of each document's EOS is included, as zero bytes."""

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


def evaluate(
    model: Llama,
    blocks: Mapping[str, NDArray[np.uint16]],
    bytes_per_token: Mapping[str, float],
    *,
    accelerator: Accelerator,
    dtype: torch.dtype,
    batch_size: int,
    meter: Meter = silent,
) -> dict[str, ValidationScore]:
    """The score of each corpus, and of all together under "". Processes share the work and all get the result.

    Args:
        blocks: uint16 (n, block size) by corpus; a block of T tokens has T - 1 predictions.
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    names, sums = list(blocks), torch.zeros(len(blocks), 2, dtype=torch.float64)
    total, done = sum(map(len, blocks.values())), 0
    was_training = model.training
    model.eval()
    with torch.inference_mode(), autocast(device, dtype):
        for index, name in enumerate(names):
            own = blocks[name][rank::world]
            for start in range(0, len(own), batch_size):
                ids = torch.from_numpy(own[start : start + batch_size].astype(np.int64)).to(device)
                count = ids.numel() - len(ids)
                sums[index] += torch.tensor([float(model(ids)) * count, count], dtype=torch.float64)
                done += len(ids) * world
                meter("evaluating", min(done, total), total, "blocks")
    model.train(was_training)
    sums = accelerator.reduce(sums.to(device), "sum").cpu()
    scores = {name: _score(sums[i], bytes_per_token[name]) for i, name in enumerate(names)}
    rates = torch.tensor([bytes_per_token[name] for name in names], dtype=torch.float64)
    return scores | {"": _score(sums.sum(dim=0), float((sums[:, 1] * rates).sum() / sums[:, 1].sum()))}


def _score(row: torch.Tensor, bytes_per_token: float) -> ValidationScore:
    loss = float(row[0] / row[1])
    return ValidationScore(loss, int(row[1]), loss / math.log(2) / bytes_per_token)
