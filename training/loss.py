"""Head and cross entropy in one, so that the logits of a whole batch never exist: they are the largest thing in
the training of a small model, and a plain loss goes over them a dozen times.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK, GROUP = 1 << 20, 1 << 25
"""Elements of the logits held at once in float32, and of their gradient in the products' dtype: 4 MB stay in a CPU's
cache, and the head's gradient, as large as the head, is not added up too often."""

CHUNK_CUDA = 1 << 28
"""Both on a GPU, where large products are what is fast (1 GB in float32)."""


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -log softmax(x @ weight.T)[target]; a float32 scalar.

    x (N, hidden), weight (vocabulary, hidden), targets (N,) of int64. Under autocast the products are in its dtype;
    the softmax is in float32 always.
    """
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    return _LinearCrossEntropy.apply(x, weight, targets, dtype)


def _sizes(device: torch.device) -> tuple[int, int]:
    """Elements of a chunk and of a group. The compiler unrolls the loop over chunks: it gets few."""
    if device.type != "cpu":
        return CHUNK_CUDA, CHUNK_CUDA
    return (GROUP if torch.compiler.is_compiling() else CHUNK), max(CHUNK, GROUP)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is computed with the loss, chunk by chunk, while the logits are there; `backward` scales it.

    fp16: what is kept is N times the gradient, softmax - onehot. Divided by N it would underflow before any loss
    scale reaches it; in `backward` the loss scale is there, and N / scale is near one.
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
                    want = targets[start:end, None]
                    logs = torch.log_softmax((h[start:end] @ w.T).float(), dim=1)
                    loss -= logs.gather(1, want).sum()
                    if dx is not None and errors is not None:
                        error = errors[start - first : end - first].copy_(logs.exp_())
                        error.scatter_add_(1, want, torch.full_like(want, -1, dtype=dtype))
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
