"""Output matrix and cross entropy in one function. The logits of a whole batch are never in memory: they would be the
largest tensor in training a small model, and a plain loss reads them a dozen times.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK, GROUP = 1 << 20, 1 << 25
"""Elements of the logits in memory at once in float32 (4 MB stay in a CPU's cache), and of their gradient in the
products' dtype (the output matrix's gradient, as large as the matrix, is not added to too often)."""

CHUNK_CUDA = 1 << 28
"""Both on a GPU, where large products are fastest (1 GB in float32)."""


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -log softmax(x @ weight.T)[target]; a float32 scalar.

    x (N, hidden), weight (vocabulary, hidden), targets (N,) of int64. Under autocast the products are in its dtype;
    the softmax is always in float32.
    """
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    return _LinearCrossEntropy.apply(x, weight, targets, dtype)


def _sizes(device: torch.device) -> tuple[int, int]:
    """Elements of a chunk and of a group. The compiler unrolls the loop over chunks, so it gets few of them."""
    if device.type != "cpu":
        return CHUNK_CUDA, CHUNK_CUDA
    return (GROUP if torch.compiler.is_compiling() else CHUNK), max(CHUNK, GROUP)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is computed with the loss, chunk by chunk, while the logits are in memory; `backward` scales it.

    For fp16, N times the gradient is stored, softmax - onehot. Divided by N it would underflow before a loss scale is
    applied; `backward` gets the loss scale, and N / scale is near one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows, needed = len(x), any(ctx.needs_input_grad[:2])
            w, h = weight.to(dtype), x.to(dtype)
            chunk, group = (max(1, size // len(w)) for size in _sizes(x.device))
            loss = torch.zeros((), dtype=torch.float32, device=x.device)
            dx = torch.empty_like(h) if needed else None
            dw = torch.zeros(w.shape, dtype=torch.float32, device=x.device) if needed else None
            errors = torch.empty(min(rows, group), len(w), dtype=dtype, device=x.device) if needed else None
            down = 2.0**-4 if dtype == torch.float16 else 1.0  # a frequent token's sum over a group stays below 65,504
            for first in range(0, rows, group):
                for start in range(first, min(first + group, rows), chunk):
                    end = min(start + chunk, first + group, rows)
                    target = targets[start:end, None]
                    logs = torch.log_softmax((h[start:end] @ w.T).float(), dim=1)
                    loss -= logs.gather(1, target).sum()
                    if dx is not None and errors is not None:
                        error = errors[start - first : end - first].copy_(logs.exp_())
                        error.scatter_add_(1, target, torch.full_like(target, -1, dtype=dtype))
                        torch.mm(error, w, out=dx[start:end])
                if dw is not None and errors is not None:
                    part = h[first : first + group] * down
                    dw.add_(errors[: len(part)].T @ part, alpha=1 / down)
            ctx.save_for_backward(*([] if dx is None or dw is None else [dx, dw]))
            ctx.rows, ctx.dtypes = rows, (x.dtype, weight.dtype)
            return loss / rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dx, dw = ctx.saved_tensors
        scale = grads[0].float() / ctx.rows
        return (dx.float() * scale).to(ctx.dtypes[0]), (dw * scale).to(ctx.dtypes[1]), None, None
