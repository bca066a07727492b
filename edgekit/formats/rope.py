"""Scaled rotary embeddings: Llama's `rope_scaling` (transformers 4) and `rope_parameters` (5), `linear` and `llama3`.

The formulas are those of transformers' `modeling_rope_utils.py`, step by step in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import CheckpointError
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
PLAIN = ("linear", "dynamic", "yarn", "llama3")
"""Kinds that change nothing with a factor of 1."""


@dataclass(frozen=True)
class RopeScaling:
    """How the frequencies of the rotary embedding are lowered.

    Attributes:
        kind: "linear": all are divided by `factor`. "llama3": the slow ones are, the fast ones are not, and those
            between are blended; the other attributes are the limits, see transformers' `_compute_llama3_parameters`.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def scale(self, frequencies: Array) -> Array:
        """Radians per position (head_dim / 2,), scaled."""
        factor = np.float32(self.factor)
        if self.kind == "linear":
            return frequencies / factor
        length = self.original_max_position_embeddings
        wavelengths = np.float32(2 * math.pi) / frequencies
        scaled = np.where(wavelengths > np.float32(length / self.low_freq_factor), frequencies / factor, frequencies)
        span = np.float32(self.high_freq_factor - self.low_freq_factor)
        smooth = (np.float32(length) / wavelengths - np.float32(self.low_freq_factor)) / span
        blended = (1 - smooth) * scaled / factor + smooth * scaled
        between = (wavelengths >= np.float32(length / self.high_freq_factor)) & (
            wavelengths <= np.float32(length / self.low_freq_factor)
        )
        return np.asarray(np.where(between, blended, scaled), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """As `rope_scaling` of a `config.json`, which transformers 4 and 5 read."""
        names = LLAMA3 if self.kind == "llama3" else ("factor",)
        return {"rope_type": self.kind, **{name: getattr(self, name) for name in names}}


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Array:
    """Radians per position of each pair of a head, (head_dim / 2,): theta ** (-2i / head_dim), scaled."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.asarray(1 / np.float32(theta) ** exponents, np.float32)
    return plain if scaling is None else scaling.scale(plain)


def divisors(head_dim: int, theta: float, scaling: RopeScaling) -> Array:
    """By how much each frequency is divided, (head_dim / 2,): llama.cpp's `rope_freqs.weight`."""
    return frequencies(head_dim, theta, None) / frequencies(head_dim, theta, scaling)


def llama3_of(stored: Array, head_dim: int, theta: float) -> RopeScaling | None:
    """The `llama3` scaling with these divisors, as far as they determine it; None if there is none.

    The factor is the largest divisor; the limits are first taken as in Llama 3 (1, 4, a length that is a power of 2),
    then solved from the divisors between them, which are linear in the frequency.
    """
    if (stored == 1).all() or not np.isfinite(stored).all() or (stored <= 0).any():
        return None
    factor = float(str(np.float32(stored.max())))
    lengths = [8192, *(1 << n for n in range(5, 21) if n != 13)]
    candidates = [RopeScaling("llama3", factor, 1.0, 4.0, length) for length in lengths]
    slopes = frequencies(head_dim, theta, None) / np.float32(2 * math.pi)
    smooth = (1 / stored.astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    between = (smooth > 1e-6) & (smooth < 1 - 1e-6)
    if between.sum() >= 2:
        rise, start = np.polyfit(slopes[between].astype(np.float64), smooth[between], 1)
        if rise > 0 and start < 0:
            for length in lengths:  # rise = length / (high - low), start = -low / (high - low)
                low, high = -start * length / rise, (1 - start) * length / rise
                candidates.append(RopeScaling("llama3", factor, round(low, 4), round(high, 4), length))
    for scaling in candidates:
        if np.allclose(divisors(head_dim, theta, scaling), stored, rtol=1e-5):
            return scaling
    return None


def read_rope(left: dict[str, Any], where: object) -> tuple[float | None, RopeScaling | None]:
    """Take `rope_scaling`, `rope_parameters` and `rope_theta` out of a configuration: the base and the scaling.

    Raises:
        CheckpointError: a scaling that edgekit does not support, or keys that contradict each other.
    """
    theta, read = left.pop("rope_theta", None), []
    for key in ("rope_scaling", "rope_parameters"):
        value = left.pop(key, None)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise CheckpointError(f"{where}: {key} is {value!r}; edgekit supports linear and llama3 scaling")
        inner = value.get("rope_theta")
        if inner is not None and theta is not None and inner != theta:
            raise CheckpointError(f"{where}: rope_theta is {theta!r}, but {inner!r} in {key}")
        theta = theta if inner is None else inner
        read.append(_scaling(key, value, where))
    if len(read) == 2 and read[0] != read[1]:
        raise CheckpointError(f"{where}: rope_scaling and rope_parameters contradict each other")
    return theta, read[0] if read else None


def _scaling(key: str, value: dict[str, Any], where: object) -> RopeScaling | None:
    kind = value.get("rope_type", value.get("type", "default"))
    fields = {k: v for k, v in value.items() if k not in ("rope_type", "type", "rope_theta") and v is not None}
    if fields.get("partial_rotary_factor") == 1:
        del fields["partial_rotary_factor"]
    factor = fields.get("factor", 1.0)
    if kind in (None, "default") or (kind in PLAIN and factor == 1 and "factor" in fields):
        for name in (*LLAMA3, "attention_factor", "beta_fast", "beta_slow"):
            if name != "attention_factor" or fields.get(name) == 1:
                fields.pop(name, None)
        if not fields:
            return None
        raise CheckpointError(f"{where}: {key} has {sorted(fields)[0]!r}, which edgekit does not support")
    if kind not in ("linear", "llama3"):
        raise CheckpointError(f"{where}: {key} is {value!r}; edgekit supports linear and llama3 scaling")
    allowed = LLAMA3 if kind == "llama3" else ("factor", "original_max_position_embeddings")
    if unknown := sorted(set(fields) - set(allowed)):
        raise CheckpointError(f"{where}: {key} has {unknown[0]!r}, which edgekit does not support")
    for name in LLAMA3 if kind == "llama3" else ("factor",):
        number = fields.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1e30:
            raise CheckpointError(f"{where}: {key}: {name} must be a number above 0, not {number!r}")
    if kind == "linear":
        return RopeScaling("linear", float(factor))
    low, high = float(fields["low_freq_factor"]), float(fields["high_freq_factor"])
    scaling = RopeScaling("llama3", float(factor), low, high, int(fields["original_max_position_embeddings"]))
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise CheckpointError(f"{where}: {key}: high_freq_factor must be above low_freq_factor")
    return scaling
