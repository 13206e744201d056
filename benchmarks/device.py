"""What a call takes of a device, and what the device can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LARGE = 4096
"""Rows and columns of the product that shows what a device can do."""


def seconds_of(call: Callable[[], object], *, is_cuda: bool) -> float:
    """Return how long a call takes, with what it queued on a CUDA device."""
    import torch

    synchronise = torch.cuda.synchronize if is_cuda else (lambda: None)
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def product_rate(device: str, dtype: str) -> float:
    """Return the operations a second of a large product, 2 a multiply and add: the fastest of some."""
    import torch

    factor = torch.randn(LARGE, LARGE, device=device).to(getattr(torch, dtype))
    seconds = [seconds_of(lambda: factor @ factor, is_cuda=factor.is_cuda) for _ in range(4)]
    return 2 * LARGE**3 / min(seconds)


def operations_of(call: Callable[[], object]) -> int:
    """Return the operations of all matrix products of a call, attention whole and experts among them."""
    import torch
    from torch.utils import flop_counter

    # Shapes of a call's first tensors in, operations out: of what PyTorch's own counter does not know.
    uncounted: dict[Any, Callable[..., int]] = {
        torch.ops.aten._grouped_mm: lambda rows, experts, *_, **__: 2 * rows[0] * experts[1] * experts[2],
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda *shapes, **__: flop_counter.sdpa_flop_count(*shapes[:3])
        ),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda *shapes, **__: flop_counter.sdpa_backward_flop_count(*shapes[:4])
        ),
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=uncounted) as counter:
        call()
    return int(counter.get_total_flops())
