"""The parts of a layer between its matrix products, with explicit gradients.

Eager autograd takes five to twenty passes over the activations for each of them; these take two to eight. Under
torch.compile the plain formulas are used, since the compiler fuses them. Tests compare both forms.
"""

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in the dtype of x."""
    if torch.compiler.is_compiling():
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x.dtype)
    return _RMSNorm.apply(x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        n = x.shape[-1]
        normal = x * inverse
        product = grads[0] * normal
        dw = product.reshape(-1, n).sum(0)
        # Without the component along x: x / rms(x) does not depend on the length of x.
        along = torch.mv(product.reshape(-1, n), weight.to(x.dtype)).view(inverse.shape).div_(n)
        dx = (grads[0] * weight.to(x.dtype)).addcmul_(normal, along, value=-1).mul_(inverse)
        return dx, dw.to(weight.dtype), None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in Hugging Face's order of halves: x (B, T, heads, D), cos and sin (T, D).

    The first half of `sin` is negated, so that rolling x by half its width needs no copy for the sign."""
    return torch.addcmul(x * cos[:, None].to(x.dtype), x.roll(x.shape[-1] // 2, dims=-1), sin[:, None].to(x.dtype))
