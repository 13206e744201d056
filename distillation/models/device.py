"""What this machine computes with: device, number formats, memory.

- A GPU is only used if this build of PyTorch has kernels for it. PyTorch says a P100 is available and fails
  at the first kernel, so its compute capability is compared with the compiled architectures before any
  kernel is started.
- A format that a GPU merely emulates does not count as supported (a T4 emulates bf16).
- On a processor bf16 counts where oneDNN multiplies it by AMX tiles. That is read from the processor's
  features, never measured: a stopwatch's answer changes with the load, and with it the bits of a result.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from distillation.errors import SettingsError, reason_of
from distillation.quiet import quiet_libraries

logger = logging.getLogger(__name__)

BFloat16By = Literal["amx", "avx512_bf16", "emulation"]
"""What a processor multiplies bf16 with: tiles, vectors, or float32 and rounding."""


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
    bfloat16_by: BFloat16By | None = None
    """What a processor multiplies bf16 with; None for accelerators."""
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
            return reason_of(error)
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
        if setting == "bfloat16" and not has_bfloat16(device):
            raise SettingsError(f"{name} = 'bfloat16': this GPU only emulates it; use float16 or auto")
        return setting
    if training:
        return "float32"
    if device == "cuda":
        return "bfloat16" if has_bfloat16(device) else "float16"
    if device == "mps":
        return "float16"
    return "bfloat16" if processor_bfloat16() == "amx" else "float32"


def choose_products(setting: str, device: str) -> str:
    """Return the format of a student's matrix products for the value of `training.autocast`.

    `auto` takes what an accelerator computes natively, and float32 on a processor.

    Raises:
        SettingsError: the setting asks for a format that the device lacks.
    """
    name = "training.autocast"
    if setting == "float16" and device == "cpu":
        raise SettingsError(f"{name} = 'float16': a processor has no float16 products; use bfloat16 or auto")
    if setting == "auto" and device == "cpu":
        return "float32"
    return choose_dtype(setting, device, name=name)


def processor_bfloat16() -> BFloat16By:
    """Return what matrix products in bf16 are made with on this processor, by oneDNN, which makes them all.

    oneDNN uses the tiles if the processor has them, the system lets the process use them, and the environment
    (`ONEDNN_MAX_CPU_ISA`, or its older name `DNNL_MAX_CPU_ISA`) does not limit it to less.
    """
    import torch

    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "emulation"
    features = _processor_features()
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").lower()
    is_limited = limit.startswith(
        ("sse", "avx")
    )  # what oneDNN does not know, `all` and `default` limit nothing
    if features >= {"amx_tile", "amx_bf16"} and (not is_limited or "amx" in limit) and _system_allows_tiles():
        return "amx"
    has_vectors = not is_limited or any(word in limit for word in ("bf16", "fp16", "avx10", "amx"))
    return "avx512_bf16" if "avx512_bf16" in features and has_vectors else "emulation"


def _processor_features() -> set[str]:
    """Return the names of the instructions that the processor has, as Linux writes them."""
    import torch

    # By PyTorch, which asks the processor; versions before 2.13 cannot be asked, Linux can.
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _system_allows_tiles() -> bool:
    """Ask Linux for the tiles, as oneDNN does: a sandbox or an old kernel may refuse."""
    import torch

    return not hasattr(torch.cpu, "_init_amx") or bool(torch.cpu._init_amx())


def probe_device(setting: str = "auto", dtype: str = "auto", *, training: bool = False) -> DeviceProbe:
    """Return what the device chosen by `setting` offers, and the format chosen by `dtype` on it.

    `training`: for the model that is trained.
    """
    import torch

    device = choose_device(setting)
    problem = cuda_problem() if setting == "auto" and device == "cpu" else None
    # On a machine without a graphics card its absence needs no explanation.
    is_worth_saying = problem is not None and ("kernels" in problem or os.path.exists("/dev/nvidia0"))
    free, total = free_memory(device)
    if device == "cuda":
        name, bfloat16_by, is_native = torch.cuda.get_device_name(), None, has_bfloat16(device)
    elif device == "mps":
        name, bfloat16_by, is_native = "Metal", None, True
    else:
        bfloat16_by = processor_bfloat16()
        name, is_native = f"processor, {torch.get_num_threads()} threads", bfloat16_by != "emulation"
    return DeviceProbe(
        device=device,
        name=name,
        fallback_reason=problem if is_worth_saying else None,
        dtype=choose_dtype(dtype, device, training=training),
        supports_bfloat16=is_native,
        supports_float16=device != "cpu",
        bfloat16_by=bfloat16_by,
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


def has_bfloat16(device: str) -> bool:
    """Return whether `device` can be asked for bf16: not a GPU that only emulates it."""
    import torch

    return device != "cuda" or bool(torch.cuda.is_bf16_supported(including_emulation=False))
