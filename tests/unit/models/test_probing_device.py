"""Choices of device and number format, and the memory estimate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillation.errors import SettingsError
from distillation.models.device import (
    _processor_features,
    choose_device,
    choose_dtype,
    choose_products,
    cuda_problem,
    free_memory,
    kernels_cover,
    probe_device,
    processor_bfloat16,
)
from distillation.models.inspect.architecture import build_on_meta, probe_architecture
from distillation.models.memory_estimate import chunk_positions, estimate_memory, readable_bytes

CURRENT_WHEEL = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "covered"),
    [
        ((7, 5), CURRENT_WHEEL, True),  # T4
        ((6, 0), CURRENT_WHEEL, False),  # P100
        ((8, 9), CURRENT_WHEEL, True),  # Ada runs sm_86 and sm_80 code
        ((12, 1), CURRENT_WHEEL, True),  # by compute_120, compiled on the spot
        ((12, 1), ["sm_90", "compute_90"], True),
        ((8, 0), ["sm_86"], False),  # a later minor version's code does not run
        ((9, 0), ["sm_80"], False),  # another major version's neither
        ((10, 3), ["sm_100a"], False),  # bound to exactly 10.0
        ((10, 0), ["sm_100a"], True),
        ((7, 5), [], False),
    ],
)
def test_kernels_cover(capability, architectures, covered) -> None:
    assert kernels_cover(capability, architectures) is covered


def test_automatic_device_is_one_that_computes() -> None:
    device = choose_device("auto")
    result = torch.ones(4, 4, device=device) @ torch.ones(4, 4, device=device)
    assert float(result.sum()) == 64.0
    assert choose_device("cpu") == "cpu"


@pytest.mark.skipif(cuda_problem() is None, reason="CUDA works here")
def test_cuda_asked_for_in_vain_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"models\.device = 'cuda': .*use auto or cpu"):
        choose_device("cuda")


@pytest.mark.skipif(cuda_problem() is not None, reason="no usable CUDA device")
def test_cuda_is_probed() -> None:
    found = probe_device("cuda")
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.dtype == ("bfloat16" if found.supports_bfloat16 else "float16")


def test_a_gpu_without_kernels_is_passed_over(monkeypatch, caplog) -> None:
    """A P100 under a current wheel: PyTorch says it is available and would fail at the first kernel."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CURRENT_WHEEL)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    assert "Tesla P100-PCIE-16GB has compute capability 6.0" in caplog.text
    assert "kernels for sm_70" in probe_device("auto").fallback_reason
    with pytest.raises(SettingsError, match="P100"):
        choose_device("cuda")


def test_a_gpu_that_emulates_bfloat16_gets_float16(monkeypatch) -> None:
    asked = []

    def emulates(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulates)
    assert choose_dtype("auto", "cuda") == "float16"
    assert choose_dtype("auto", "cuda", training=True) == "float32"
    assert asked == [False]
    with pytest.raises(
        SettingsError, match=r"models\.teacher\.dtype = 'bfloat16': this GPU only emulates it"
    ):
        choose_dtype("bfloat16", "cuda", name="models.teacher.dtype")


TILES = {"avx512_f", "avx512_bf16", "amx_tile", "amx_bf16"}


@pytest.mark.parametrize(
    ("features", "limit", "allowed", "expected"),
    [
        (TILES, None, True, "amx"),
        (TILES, "ALL", True, "amx"),
        (TILES, "AVX512_CORE_AMX", True, "amx"),
        (TILES, "AVX10_1_512_AMX_FP16", True, "amx"),
        (TILES, "no such instructions", True, "amx"),  # oneDNN does not know it and takes all
        (TILES, "AVX512_CORE_BF16", True, "avx512_bf16"),
        (TILES, "avx2", True, "emulation"),
        (TILES, None, False, "avx512_bf16"),  # a sandbox that forbids tiles
        ({"avx512_bf16"}, None, True, "avx512_bf16"),
        ({"amx_tile", "amx_int8"}, None, True, "emulation"),
        ({"avx2"}, None, True, "emulation"),
    ],
)
def test_processor_format_follows_its_instructions(monkeypatch, features, limit, allowed, expected) -> None:
    monkeypatch.setattr("distillation.models.device._processor_features", lambda: set(features))
    monkeypatch.setattr("distillation.models.device._system_allows_tiles", lambda: allowed)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
        if limit is not None:
            monkeypatch.setenv(name, limit)
        assert processor_bfloat16() == expected
    assert choose_dtype("auto", "cpu") == ("bfloat16" if expected == "amx" else "float32")
    assert choose_dtype("auto", "cpu", training=True) == "float32"
    assert choose_dtype("float16", "cpu") == "float16"
    assert choose_products("auto", "cpu") == "float32"
    assert choose_products("bfloat16", "cpu") == "bfloat16"


def test_the_processor_is_asked() -> None:
    """As Linux says, where it is Linux that can be asked too."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    if not flags:
        pytest.skip("no /proc/cpuinfo with flags")
    named = {"avx2", "avx512_bf16", "amx_tile", "amx_bf16"}
    assert _processor_features() & named == flags & named


def test_a_format_that_the_processor_lacks_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"training\.autocast = 'float16': .*use bfloat16 or auto"):
        choose_products("float16", "cpu")


def test_free_memory_is_less_than_all() -> None:
    free, total = free_memory("cpu")
    assert 0 < free <= total


def sizes_of(config):
    return probe_architecture(build_on_meta(config))


def test_estimate_counts_weights_exactly(make_config) -> None:
    student, teacher = sizes_of(make_config("Llama")), sizes_of(make_config("Qwen3Moe"))
    need = estimate_memory(
        teacher, student, free=10**9, teacher_dtype="bfloat16", batch_size=2, max_length=16, chunk_size=8
    )
    assert need.student_weights == need.gradients == 4 * student.num_parameters
    assert need.optimizer == 8 * student.num_parameters
    assert need.teacher_weights == 2 * teacher.num_parameters
    tile = 8 * teacher.num_output_rows * (2 + 4)
    assert need.logits == 4 * (8 * 4 * 300 + 300 * student.width) + tile
    assert need.fits
    alone = estimate_memory(None, student, free=need.student_weights, batch_size=2, max_length=16)
    assert (alone.teacher_weights, alone.teacher_activations, alone.fits) == (0, 0, False)
    assert alone.total == sum(alone.model_dump().values()) - alone.free


def test_a_chunk_follows_the_memory() -> None:
    numbers = 4 * 49_152
    assert chunk_positions(numbers, "cpu", memory=10**12) == 256
    assert chunk_positions(numbers, "cuda", memory=10**12) == 1344
    assert chunk_positions(numbers, "cpu", memory=8 * 4 * numbers * 100) == 96
    assert chunk_positions(numbers, "cpu", memory=0) == 32
    assert chunk_positions(4 * numbers, "cpu", memory=10**12) == 256, "products of fewer are slow"
    assert chunk_positions(4 * numbers, "cpu", memory=10**9) < 256


@pytest.mark.parametrize(("name", "largest_ratio"), [("Llama", 1.3), ("GPTNeoX", 2.0)])
def test_activations_are_near_what_autograd_keeps(make_config, name, largest_ratio) -> None:
    """The formula counts a gated feed-forward part, so it is generous to a model without gates."""
    config = (
        make_config(name, hidden_size=64, intermediate_size=192, head_dim=16) if name == "Llama" else None
    )
    config = config or make_config(name, hidden_size=64, intermediate_size=256)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden_BTD = model.base_model(torch.randint(0, 300, (4, 32)), use_cache=False).last_hidden_state
    measured = sum(kept.values())
    assert hidden_BTD.requires_grad
    need = estimate_memory(None, sizes_of(config), free=1, batch_size=4, max_length=32)
    assert 0.8 < need.activations / measured < largest_ratio


def test_readable_bytes() -> None:
    assert [readable_bytes(n) for n in (12, 1500, 15_000_000, 2 * 10**12)] == [
        "12 B",
        "1.5 kB",
        "15 MB",
        "2.0 TB",
    ]
