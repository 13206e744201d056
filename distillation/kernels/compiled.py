"""Functions over logits, compiled where the device has a compiler, and as they stand everywhere else.

On a GPU every pass over a chunk's logits reads and writes all of them; compiled, neighbouring passes are one
kernel. On a processor the passes are stretches that stay in its cache, and compiling takes longer than it
saves. What the compiler refuses runs as it stands. `TORCH_COMPILE_DISABLE=1` switches it off.

Invariant: both forms give the same values, in the same memory.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
LEAST_CAPABILITY = (7, 0)
"""Compute capability that Triton's kernels need."""


def compiled_on_device(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return `function`, compiled for tensors on a device with a compiler; its first argument is a tensor."""

    @functools.wraps(function)
    def choose(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        logits: Any = args[0]
        if not has_compiler(logits.device):
            return function(*args, **kwargs)
        with torch._dynamo.config.patch(suppress_errors=True):
            return _compiled(function)(*args, **kwargs)  # type: ignore[no-any-return]

    return choose


@functools.cache
def has_compiler(device: torch.device) -> bool:
    """Return whether Triton is here and makes kernels for `device`."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Positions and targets of a chunk differ from batch to batch: one kernel for all numbers of them.
    return torch.compile(function, dynamic=True)
