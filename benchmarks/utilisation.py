"""What a device can do at most: the speed of one large matrix product, 2 operations a multiply and add."""

from __future__ import annotations

import time

LARGE = 4096
"""Rows and columns."""


def product_rate(device: str, dtype: str) -> float:
    """Return the operations a second of a large product in a format: the fastest of some."""
    import torch

    factor = torch.randn(LARGE, LARGE, device=device).to(getattr(torch, dtype))
    least = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        _ = factor @ factor
        if factor.is_cuda:
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return 2 * LARGE**3 / least
