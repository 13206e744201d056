"""Whether tensors hold numbers: neither NaN nor infinite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def nonfinite_tensor(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that holds a number that is not finite; None if all are.

    The device is waited for once, whatever the number of tensors, and no tensor is copied.
    """
    import torch

    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    named = [(name, one.detach()) for name, one in tensors if one.dtype in kinds and one.numel()]
    named = [(name, tensor) for name, tensor in named if not tensor.is_meta]
    if not named:
        return None
    device = named[0][1].device
    # The largest magnitude is finite just if all are: NaN is passed on.
    largest = [torch.linalg.vector_norm(tensor, torch.inf).to(device).float() for _, tensor in named]
    faulty = (~torch.stack(largest).isfinite()).nonzero().flatten().tolist()
    return named[faulty[0]][0] if faulty else None
