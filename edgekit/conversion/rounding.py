"""Which matrices lose most when they alone are rounded, for converters that keep some of them in more bits.

    losses = Losses(checkpoint)
    losses.of(3, "ffn", {"model.layers.3.mlp.down_proj.weight": rounded})      # mean KL, nats a token
    losses.whole({...})                                                        # several at once

The source runs once over the bundled text, and its hidden state before each half of each layer is kept. A matrix is
measured by continuing from there, half the work of the whole model on average. How many tokens follows from a budget of
multiplications: 256 for 12 million parameters, 32 for 135 million. Losses of single matrices add up well: to 2.2e-2 on
the bundled model at 4 bits, where all at once lose 2.2e-2, and to 0.40 on SmolLM2-135M, where all lose 0.35.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekit.conversion.verification.measure import measure_source, of_checkpoint
from edgekit.conversion.verification.metrics import Agreement
from edgekit.conversion.verification.settings import Verifying
from edgekit.formats.checkpoint import Checkpoint
from edgekit.inference.reference import Reference
from edgekit.inference.sampling import log_softmax

MEASURED = Verifying(tokens=256, greedy=0, threads=1)
WORK = 3e11
"""Multiplications of all measurements of single matrices together."""
FEW = 32
"""Tokens that are used at least."""
MATRICES = 4
"""That are measured in each layer: queries, keys and values together, output, gate and up together, down."""
HALVES = ("attention", "ffn")

Rounded = Mapping[str, NDArray[np.float32]]
"""Hugging Face's name of a tensor -> its values after rounding."""


class Losses:
    """A checkpoint, and what its text loses when tensors are replaced.

    Attributes:
        text, positions: what `whole` is measured on, as words for a report, and how much of it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises as `measure_source`: `DataError`, `CheckpointError`."""
        self._tensors = {name: np.asarray(tensor, np.float32) for name, tensor in checkpoint}
        source = of_checkpoint(replace(checkpoint, tensors=self._tensors))
        expected = measure_source(source, None, MEASURED)
        self._model = Reference(replace(checkpoint, tensors=self._tensors))  # sees what `_replaced` puts there
        self._ids, self._targets = expected.windows[0][:-1], np.asarray(expected.windows[0][1:])
        self._logits, self.text, self.positions = expected.first, expected.text, len(self._ids)
        count = min(self.positions, tokens(checkpoint))
        self._logp = log_softmax(self._logits[:count])
        self._hidden = [hidden.copy() for hidden, _ in self._model.parts(self._ids[:count])]

    def of(self, layer: int, half: str, rounded: Rounded) -> float:
        """Mean KL in nats a token, when tensors of one half of a layer, "attention" or "ffn", are replaced."""
        first = 2 * layer + HALVES.index(half)
        hidden = self._hidden[first].copy()
        with self._replaced(rounded) as model:
            for part in range(first, len(self._hidden)):
                hidden += model.part(part // 2, HALVES[part % 2], hidden)
            difference = self._logp - log_softmax(model.head(hidden))
        return float((np.exp(self._logp) * difference).sum(-1).mean())

    def whole(self, rounded: Rounded) -> float:
        """Mean KL in nats a token over all positions, when any tensors are replaced."""
        agreement = Agreement()
        with self._replaced(rounded) as model:
            model.rewind(0)
            agreement.add(self._logits, model.forward(self._ids, every=True), self._targets)
        return agreement.figures().mean_kl

    @contextlib.contextmanager
    def _replaced(self, rounded: Rounded) -> Iterator[Reference]:
        """The model with other tensors, changed in place: a new `Checkpoint` would check every value of all."""
        before = {name: self._tensors[name] for name in rounded}
        self._tensors.update(rounded)
        try:
            yield self._model
        finally:
            self._tensors.update(before)


def tokens(checkpoint: Checkpoint) -> int:
    """How many tokens single matrices are measured on."""
    config = checkpoint.config
    head = config.vocab_size * config.hidden_size
    layers = sum(tensor.size for name, tensor in checkpoint if ".layers." in name)
    each = MATRICES * config.num_hidden_layers * (layers / 2 + head)
    return int(np.clip(WORK / each, FEW, MEASURED.tokens))
