"""The peak speed of the hardware, which model FLOPs utilisation is relative to."""

import time

import torch

# Dense peak of matrix products in FLOP/s: (fp16 or bf16 with float32 sums, float32). From the vendors' data sheets.
PEAKS = {
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
    "P100": (18.7e12, 9.3e12),
    "A100": (312e12, 19.5e12),
    "A10": (125e12, 31.2e12),
    "L4": (121e12, 30.3e12),
    "L40S": (362e12, 91.6e12),
    "RTX 3090": (71e12, 35.6e12),
    "RTX 4090": (165e12, 82.6e12),
    "H100": (989e12, 67e12),
    "H200": (989e12, 67e12),
}


def peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of one device in products of `dtype`: a GPU's from the table, a CPU's measured in a quarter of a
    second; None if unknown."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known in sorted(PEAKS, key=len, reverse=True):
            if known in name:
                return PEAKS[known][dtype == torch.float32]
        return None
    if device.type != "cpu" or dtype == torch.float16:  # emulated, and noticeably slow
        return None
    # A separate generator: dropout uses the global one, whose state a resumed run has just restored.
    a = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).to(dtype)
    best, end = float("inf"), time.perf_counter() + 0.25
    while time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best
