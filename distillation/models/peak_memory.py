"""The peak of memory, and how far a piece of work raises it.

On CUDA the allocator tells. On Linux the kernel tells the peak of the whole process (`VmHWM`), and starts it
anew from what the process holds now when 5 is written to `/proc/self/clear_refs`. Memory that the C library
has kept after it was freed would hide growth, so it is given back first. Elsewhere a process knows its peak
since it began, and nobody tells growth: None.

The growth on a processor is that of the process, whole pages and holes included: other threads and earlier
work add to it, some ten megabytes in what was measured here. So it is the least of some runs; it tells models
of hundreds of megabytes apart, and not models of five.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")
"""Where Linux tells about this process."""
NUM_RUNS = 5
"""Runs of the work on a processor, of which the one that takes least counts."""


def peak_growth(run: Callable[[], Any], device: Any, num_runs: int = NUM_RUNS) -> int | None:
    """Return by how many bytes `run` raises the peak above what was held before; None where unknown.

    Args:
        run: the work; its result is let go.
        device: the `torch.device` that it runs on.
        num_runs: on a processor; 1 for work that leaves something behind.
    """
    if device.type == "cuda":
        return _cuda_growth(run, device)
    return _process_growth(run, device, num_runs) if device.type == "cpu" else None


def restart_peak(device: Any) -> bool:
    """Let `peak_bytes` tell of what comes from now on; False where that is not possible."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:  # not Linux, or a system that keeps it to itself
        return False
    return True


def peak_bytes(device: Any) -> int:
    """Return the most memory of a CUDA device, or else of this process, since it began or `restart_peak`."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        return _peak()
    except (OSError, KeyError):
        # Not on Linux, where a process inherits this figure from the one that started it.
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def bytes_of_weights(model: Any) -> int:
    """Return the bytes of a model's parameters and buffers; tied ones count once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _cuda_growth(run: Callable[[], Any], device: Any) -> int:
    import torch

    torch.cuda.synchronize(device)
    restart_peak(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return peak_bytes(device) - before


def _process_growth(run: Callable[[], Any], device: Any, num_runs: int) -> int | None:
    """Return the least growth of some runs: what else the process does can only add to one."""
    growths = []
    gc.collect()
    for _ in range(num_runs):
        _give_back_freed_memory()
        if not restart_peak(device):
            return None
        try:
            before = _peak()
        except (OSError, KeyError):
            return None
        run()
        growths.append(max(0, _peak() - before))
    return min(growths)


def _give_back_freed_memory() -> None:
    """Let the C library hand freed pages to the system; only glibc has the call."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _peak() -> int:
    """Return the largest size that this process has had since the peak was started anew, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024
