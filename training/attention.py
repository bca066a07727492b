"""Causal attention for training: PyTorch's SDPA on a GPU, matrix products over blocks of queries on a CPU.

SDPA's CPU kernel spends most of its time between its matrix products. Here a block of queries takes a few batched
products and one fused softmax. The probabilities, B * H * T * T / 2 numbers per layer, are stored for the backward
pass; SDPA computes them again. The softmax is computed in float32 inside PyTorch's own kernel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
"""Queries per block. Keys after the block's last query are not computed, which is most of what causality saves."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D), causal) v. q (B, H, T, D), k and v (B, G, T, D) with G dividing H; q's dtype out."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    if (repeats := q.shape[1] // k.shape[1]) > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    B, H, T, D = q.shape
    with torch.autocast("cpu", enabled=False):
        return _Causal.apply(*(x.reshape(B * H, T, D) for x in (q, k, v))).view(B, H, T, D)


class _Causal(torch.autograd.Function):
    """q, k, v (N, T, D) -> (N, T, D)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T, D = q.shape[1:]
        out, probabilities = torch.empty_like(q), []
        q = q * D**-0.5
        later = torch.ones(min(BLOCK, T), min(BLOCK, T), dtype=torch.bool).triu_(1)
        for start in range(0, T, BLOCK):
            end = min(start + BLOCK, T)
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
            scores[:, :, start:].masked_fill_(later[: end - start, : end - start], float("-inf"))
            p = torch.softmax(scores, dim=2)
            out[:, start:end] = torch.bmm(p, v[:, :end])
            probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *probabilities = ctx.saved_tensors
        grad = grads[0].contiguous()
        N, T, D = q.shape
        dq, dk, dv = torch.empty_like(q), torch.zeros(N, T, D), torch.zeros(N, T, D)
        for p, start in zip(probabilities, range(0, T, BLOCK), strict=True):
            end = min(start + BLOCK, T)
            g = grad[:, start:end]
            dv[:, :end] += torch.bmm(p.transpose(1, 2), g)
            dp = torch.bmm(g, v[:, :end].transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, 2, p.dtype)
            dq[:, start:end] = torch.bmm(ds, k[:, :end])
            dk[:, :end] += torch.bmm(ds.transpose(1, 2), q[:, start:end])
        return dq.mul_(D**-0.5), dk.to(k.dtype), dv.to(v.dtype)
