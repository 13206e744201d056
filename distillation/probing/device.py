"""What this machine computes with, and how fast: device, number formats, free memory.

- A GPU is only used if this build of PyTorch has kernels for it. PyTorch says a P100 is available and fails
  at the first kernel, so its compute capability is compared with the compiled architectures before any
  kernel is started.
- A format that a GPU merely emulates does not count as supported (a T4 emulates bf16).
- On a processor bf16 can be eight times faster than fp32 (AMX) or two hundred times slower (no support at
  all), so it is measured. It must win by `MIN_SPEEDUP`: that separates kinds of hardware, so a busy machine
  cannot make the choice flip between two runs. The time is this thread's own processor time, for the same
  reason.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillation.errors import SettingsError, one_line
from distillation.probing.quiet import quiet_libraries

logger = logging.getLogger(__name__)

MIN_SPEEDUP = 4.0
_MATRIX_SIZE = 256


class DeviceProbe(BaseModel):
    """One device as it is now."""

    model_config = ConfigDict(frozen=True)

    device: str
    """`cpu`, `cuda` or `mps`."""
    name: str
    fallback_reason: str | None
    """Why an accelerator that may be there is not used; None when there is nothing to explain."""
    dtype: str
    """Number format of a frozen model under the setting that was probed."""
    supports_bfloat16: bool
    """Natively; emulation does not count."""
    supports_float16: bool
    bfloat16_speedup: float | None
    """How many times faster than fp32 a bf16 matrix product is; measured on processors only."""
    total_bytes: int
    free_bytes: int


def kernels_cover(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Return whether code compiled for `architectures` (`sm_70`, `compute_90`, ...) runs on `capability`.

    Binary code runs within its major version from its minor version on; `compute_` is compiled on the spot
    for any later device. Letters after the number (`sm_90a`) bind it to exactly that device.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if match is None:
            continue
        kind, compiled, exact = match[1], (int(match[2]), int(match[3])), bool(match[4])
        if compiled == capability:
            return True
        if exact or compiled > capability:
            continue
        if kind == "compute" or compiled[0] == capability[0]:
            return True
    return False


def cuda_problem() -> str | None:
    """Return why CUDA cannot be used here; None when a small product ran on it."""
    import torch

    if not torch.backends.cuda.is_built():
        return "this PyTorch has no CUDA support"
    with quiet_libraries():
        if not torch.cuda.is_available():
            return "no CUDA device answers"
        try:
            capability, architectures = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
            if torch.version.hip is None and not kernels_cover(capability, architectures):
                name, compiled = torch.cuda.get_device_name(), ", ".join(architectures)
                return (
                    f"{name} has compute capability {capability[0]}.{capability[1]}, "
                    f"and this PyTorch has kernels for {compiled} only"
                )
            ones = torch.ones(8, 8, device="cuda")
            (ones @ ones).sum().item()
        except RuntimeError as error:  # A damaged driver or a device without memory; the text says which.
            return one_line(error)[:160]
    return None


def choose_device(setting: str) -> str:
    """Return `cuda`, `mps` or `cpu` for the value of `models.device`; `auto` takes an accelerator that works.

    Raises:
        SettingsError: the setting names an accelerator that does not work here.
    """
    import torch

    if setting == "cpu":
        return "cpu"
    if setting in ("auto", "cuda"):
        problem = cuda_problem()
        if problem is None:
            return "cuda"
        if setting == "cuda":
            raise SettingsError(f"models.device = 'cuda': {problem}; use auto or cpu")
        if "kernels" in problem:
            logger.warning("running on the processor: %s", problem)
    if torch.backends.mps.is_available():
        return "mps"
    if setting == "mps":
        raise SettingsError("models.device = 'mps': this machine has no Metal device; use auto or cpu")
    return "cpu"


def choose_dtype(setting: str, device: str, *, training: bool = False, name: str = "models.*.dtype") -> str:
    """Return the format of the weights in memory: `float32`, `bfloat16` or `float16`.

    `auto` takes float32 for a model in `training`, whatever the device: an update of a thousandth is lost
    in bf16 weights, and autocast brings the speed. For a frozen model it takes the fastest format that the
    device computes natively.

    Raises:
        SettingsError: the setting, whose full name is `name`, asks for a format that the device lacks.
    """
    if setting != "auto":
        if setting == "bfloat16" and device == "cuda" and not _cuda_has_bfloat16():
            raise SettingsError(f"{name} = 'bfloat16': this GPU only emulates it; use float16 or auto")
        return setting
    if training:
        return "float32"
    if device == "cuda":
        return "bfloat16" if _cuda_has_bfloat16() else "float16"
    if device == "mps":
        return "float16"
    return "bfloat16" if bfloat16_speedup() >= MIN_SPEEDUP else "float32"


@functools.cache
def bfloat16_speedup() -> float:
    """Return how many times faster a bf16 than an fp32 matrix product is on this processor, on one thread."""
    import torch

    def seconds(dtype: torch.dtype, repeats: int) -> float:
        factor = torch.ones(_MATRIX_SIZE, _MATRIX_SIZE, dtype=dtype)
        times = []
        for _ in range(repeats):
            begin = time.thread_time()
            factor @ factor
            times.append(time.thread_time() - begin)
        return max(min(times), 1e-7)

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = seconds(torch.float32, 12)
        # One emulated product may take two hundred times as long: once is enough to know.
        reduced = seconds(torch.bfloat16, 2)
        if reduced < 3 * single:
            reduced = seconds(torch.bfloat16, 12)
    finally:
        torch.set_num_threads(num_threads)
    return single / reduced


def probe_device(setting: str = "auto", dtype: str = "auto") -> DeviceProbe:
    """Return what the device chosen by `setting` offers, and the format chosen by `dtype` on it."""
    import torch

    device = choose_device(setting)
    problem = cuda_problem() if setting == "auto" and device == "cpu" else None
    # On a machine without a graphics card its absence needs no explanation.
    is_worth_saying = problem is not None and ("kernels" in problem or os.path.exists("/dev/nvidia0"))
    free, total = free_memory(device)
    if device == "cuda":
        name, bfloat16, speedup = torch.cuda.get_device_name(), _cuda_has_bfloat16(), None
    elif device == "mps":
        name, bfloat16, speedup = "Metal", True, None
    else:
        speedup = bfloat16_speedup()
        name, bfloat16 = f"processor, {torch.get_num_threads()} threads", speedup >= 1.0
    return DeviceProbe(
        device=device,
        name=name,
        fallback_reason=problem if is_worth_saying else None,
        dtype=choose_dtype(dtype, device),
        supports_bfloat16=bfloat16,
        supports_float16=device != "cpu",
        bfloat16_speedup=speedup,
        total_bytes=total,
        free_bytes=free,
    )


def free_memory(device: str) -> tuple[int, int]:
    """Return the free and the total memory of `device`, in bytes; a container's limit counts as its total."""
    import psutil
    import torch

    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return int(free), int(total)
    memory = psutil.virtual_memory()
    free, total = int(memory.available), int(memory.total)
    limit = _container_limit()
    if limit is not None and limit[1] < total:
        free, total = min(free, limit[0]), limit[1]
    return free, total


def _container_limit() -> tuple[int, int] | None:
    """Return what is left of a control group's memory limit and the limit, in bytes; None without one."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if not (os.path.exists(limit) and os.path.exists(used)):
            continue
        text = Path(limit).read_text().strip()
        if text.isdigit():
            return max(0, int(text) - int(Path(used).read_text())), int(text)
    return None


def _cuda_has_bfloat16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
