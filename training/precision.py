"""Stentor2's T4 precision recipe: half-precision products, float32 where fp16 breaks.

* autocast (fp16 with a gradient scaler, or bf16) over float32 master weights;
* every RMSNorm in float32, returning its input's dtype (25 modules at 12 layers);
* the first two layers entirely in float32, with autocast off inside;
* the softmax of attention left to SDPA, whose fast kernels need half precision and sum in float32.

The patches are attributes of the module objects: state dicts do not contain them, and `remove` removes them. They work
on any module with the structure of a Llama, transformers' (4 and 5) as well as edgekit's.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgekit.errors import RecipeError

log = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}
BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Counts:
    """How many modules run in float32 under autocast."""

    norms: int
    layers: int
    softmax: int = 0

    def __str__(self) -> str:
        return f"float32 under autocast: {self.norms} norms, {self.layers} layers, {self.softmax} softmax (SDPA's own)"


def choose(mixed_precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the products for a recipe's `mixed_precision`.

    A GPU has bf16 from capability 8.0 on. `torch.cuda.is_bf16_supported()` also counts emulation, which is slow, and
    would choose bf16 on a T4 (7.5).

    Raises:
        RecipeError: bf16 is requested on a GPU without it.
    """
    if device.type != "cuda":
        return torch.bfloat16 if mixed_precision == "auto" else DTYPES[mixed_precision]
    capability = torch.cuda.get_device_capability(device)
    if mixed_precision == "auto":
        return torch.bfloat16 if capability >= BF16_CAPABILITY else torch.float16
    if mixed_precision == "bf16" and capability < BF16_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise RecipeError(f"precision.mixed_precision is bf16, which {name} only emulates: use fp16")
    return DTYPES[mixed_precision]


def apply(model: nn.Module, *, norms: bool = True, layers: int = 2) -> Counts:
    """Patch a Llama in place; returns and logs what was patched.

    Args:
        model: has its layers under `.model.layers` (or `.layers`), each norm's class named `...RMSNorm`.
        norms: run every norm in float32.
        layers: this many first layers entirely in float32, their weights included.
    """
    remove(model)
    rms_norms = [m for m in model.modules() if type(m).__name__.lower().endswith("rmsnorm")] if norms else []
    for norm in rms_norms:
        _patch(norm, _float32_norm)
    inner: Any = getattr(model, "model", model)
    first = list(inner.layers)[:layers]
    for layer in first:
        layer.float()
        _patch(layer, _float32_layer)
    counts = Counts(len(rms_norms), len(first))
    log.info("%s", counts)
    return counts


def remove(model: nn.Module) -> None:
    """Undo `apply`."""
    for module in model.modules():
        if hasattr(module.__dict__.get("forward"), "edgekit_patch"):
            del module.__dict__["forward"]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """autocast to `dtype`, or no autocast for float32."""
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()


def _patch(module: nn.Module, wrap: Callable[[Callable], Callable]) -> None:
    forward = wrap(type(module).forward.__get__(module))
    forward.edgekit_patch = True  # type: ignore[attr-defined]
    module.forward = forward  # type: ignore[method-assign]


def _float32_norm(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute a norm in float32 and return the input's dtype. Contiguous for strided inputs, as in the model card."""

    @functools.wraps(original)
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return original(hidden_states.float().contiguous(), *args, **kwargs).to(hidden_states.dtype)

    return forward


def _float32_layer(original: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a layer in float32 without autocast and return the residual stream's dtype."""

    @functools.wraps(original)
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stream = hidden_states.dtype
        with torch.autocast(hidden_states.device.type, enabled=False):
            out = original(
                hidden_states.float(), *(_cast(a, torch.float32) for a in args),
                **{k: _cast(v, torch.float32) for k, v in kwargs.items()},
            )  # fmt: skip
        return _cast(out, stream)

    return forward


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(v, dtype) for v in value)
    return value


def patched(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that `apply` patched."""
    return (m for m in model.modules() if hasattr(m.__dict__.get("forward"), "edgekit_patch"))
