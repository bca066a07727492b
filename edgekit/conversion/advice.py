"""The smallest type that keeps within 2 % of the source's perplexity: what `convert` names after a costly conversion.

Larger types are tried from small to large, each converted and run on the same tokens as the artefact was, until one
keeps within `cost.LITTLE`. So that a model of 100 million parameters takes tens of seconds and not minutes,
types that cannot pass are left out: the KL grows about as the square of the change of the weights, which is known after
rounding a slice of the model, a few layers and some rows of its embedding.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from edgekit.conversion.base import ComparesTensors
from edgekit.conversion.candidates import Candidates, Tried, size
from edgekit.conversion.verification.cost import LITTLE, cost_of, percent, signed
from edgekit.conversion.verification.measure import SourceLogits
from edgekit.conversion.verification.metrics import Figures
from edgekit.errors import EdgekitError, MissingExtraError, SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.settings import Converting
from edgekit.utils import temporaries
from edgekit.utils.progress import Progress, silent

MOST = 6
"""Types that are measured at most."""
SURELY = 2.0
"""A type is left out if its estimated KL is so many times above the limit."""
LARGEST = 500_000_000
"""Parameters of a model up to which `convert` looks unasked."""
ROWS = 512
"""Of the embedding, in the slice on which the change of the weights is estimated."""


@dataclass(frozen=True)
class Advice:
    """Which type to take instead."""

    to: str
    chosen: Tried | None
    """None if none of the measured types keeps within the limit."""
    tried: list[Tried]
    """The larger types, from small to large, up to the chosen one."""
    text: str
    positions: int

    def sentence(self) -> str:
        """For people."""
        measured = [row for row in self.tried if row.figures is not None]
        where = f"measured on {self.positions} positions of {self.text}"
        if self.chosen is not None:
            return f"the smallest {self.to} type within {percent(LITTLE)}: {_shown(self.chosen)}, {where}"
        if not measured:
            return f"no larger {self.to} type could be measured"
        best = min(measured, key=lambda row: row.figures.mean_kl if row.figures else np.inf)
        return (
            f"none of the {len(measured)} larger {self.to} types that were tried keeps within {percent(LITTLE)}: the "
            f"best is {_shown(best)}, {where}"
        )

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        chosen = None if self.chosen is None else self.chosen.record()
        return {"within": LITTLE, "chosen": chosen, "tried": [row.record() for row in self.tried], "text": self.text,
                "positions": self.positions}  # fmt: skip


def advise(
    checkpoint: Checkpoint,
    to: str,
    settings: Converting,
    expected: SourceLogits,
    figures: Figures,
    progress: Progress = silent,
) -> Advice | None:
    """Find the smallest type that is larger than `settings.quant` and keeps within 2 %.

    Args:
        settings: those of the conversion that costs too much.
        expected: the source's logits that it was compared with.
        figures: its own.

    Returns:
        None if the format has no types whose sizes are known, or none is larger.
    """
    try:
        candidates = Candidates(checkpoint, to, settings)
    except (SettingError, MissingExtraError):
        return None
    now = next((size(row) for row in candidates.rows if row.quant == settings.quant), 0)
    larger = [row for row in candidates.rows[::-1] if size(row) > now > 0]
    if not larger:
        return None
    tried: list[Tried] = []
    with threadpool_limits(1, "blas"), temporaries.scratch() as folder:
        estimates = _Estimates(candidates, str(settings.quant), figures.mean_kl, folder)
        for row in progress(larger, f"looking for a type within {percent(LITTLE)}", len(larger)):
            if _is_found(tried) or sum(one.figures is not None for one in tried) >= MOST:
                continue
            estimate = estimates.of(row.quant)
            if estimate > SURELY * LITTLE:
                tried.append(Tried(row.quant, size(row), None, f"left out: estimated KL {estimate:.2g}"))
                continue
            tried.append(one := candidates.measure(row, expected, Path(folder)))
            if one.figures is not None:
                estimates.learn(row.quant, one.figures.mean_kl)
    if chosen := _is_found(tried):
        tried[-1] = chosen = dataclasses.replace(tried[-1], verdict="chosen")
    return Advice(to, chosen or None, tried, expected.text, expected.positions)


def _is_found(tried: list[Tried]) -> Tried | None:
    return tried[-1] if tried and tried[-1].figures is not None and cost_of(tried[-1].figures) <= LITTLE else None


def _shown(row: Tried) -> str:
    figures = f" ({signed(row.figures.perplexity_change)}, KL {row.figures.mean_kl:.2g})" if row.figures else ""
    return f"{row.quant}, {row.bytes / 1e6:.2f} MB{figures}"


class _Estimates:
    """The KL of a type, estimated from the change of the weights in a slice of the model."""

    def __init__(self, candidates: Candidates, quant: str, mean_kl: float, folder: Path) -> None:
        self._candidates, self._folder = candidates, folder
        self._slice = _slice(candidates.checkpoint)
        self._known: dict[str, float | None] = {}
        self.learn(quant, mean_kl)

    def learn(self, quant: str, mean_kl: float) -> None:
        """Estimate from this type from now on: the nearer in size, the better."""
        self._mean_kl, self._changed = mean_kl, self._change(quant)

    def of(self, quant: str) -> float:
        """Nats a token; 0 if nothing can be said."""
        changed = self._change(quant)
        return self._mean_kl * changed / self._changed if changed and self._changed else 0.0

    def _change(self, quant: str) -> float | None:
        if quant not in self._known:
            self._known[quant] = self._measure(quant)
        return self._known[quant]

    def _measure(self, quant: str) -> float | None:
        """Sum of the squared changes over that of the squared values, of all matrices; None if it is unknown."""
        module = self._candidates.converter
        path = self._folder / f"slice-{quant}{module.SUFFIX}"
        settings = dataclasses.replace(self._candidates.settings_of(quant), importance=None)
        try:
            if not isinstance(module, ComparesTensors):
                return None
            module.convert(dataclasses.replace(self._slice, notes=[]), path, settings, silent)
            change, whole = _compare(self._slice, module, path)
        except EdgekitError:
            return None
        finally:
            path.unlink(missing_ok=True)
        return change / whole if whole else None


def _compare(source: Checkpoint, module: ComparesTensors, path: Path) -> tuple[float, float]:
    """Sums over the matrices of a file: squared differences from the source, and squared values."""
    change = whole = 0.0
    for tensor in module.weights(path):
        if tensor.values.ndim > 1 and tensor.name in source.tensors:
            values = source.float32(tensor.name)
            change += float(np.square(tensor.values - values).sum())
            whole += float(np.square(values).sum())
    return change, whole


def _slice(checkpoint: Checkpoint) -> Checkpoint:
    """The first, the middle and the last layer under an embedding of `ROWS` rows, without a tokenizer."""
    config = checkpoint.config
    layers = sorted({0, config.num_hidden_layers // 2, config.num_hidden_layers - 1})
    smaller = dataclasses.replace(
        config,
        num_hidden_layers=len(layers),
        vocab_size=min(ROWS, config.vocab_size),
        bos_token_id=None,
        eos_token_id=(),
        pad_token_id=None,
    )
    tensors = {}
    for name in smaller.shapes():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(layers[int(parts[2])])
        tensor = checkpoint.tensors[".".join(parts)]
        tensors[name] = tensor if parts[1] == "layers" or tensor.ndim == 1 else tensor[: smaller.vocab_size]
    files = {"config.json": json.dumps(smaller.to_dict()).encode()}
    return Checkpoint("slice", smaller, tensors, dict.fromkeys(tensors, "F32"), files)
