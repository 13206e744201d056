"""The compiled form of the losses gives what the plain form gives, in the same memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distillation.kernels import closed_form, compiled
from distillation.kernels.closed_form import Losses, Weights, dense_losses, sparse_losses

WEIGHTS = Weights(0.1, 0.9)
SIZES = ((50, 9, 6), (50, 9, 9), (50, 12, 3), (70, 8, 1))
"""(rows, positions, targets), as they change from chunk to chunk."""
NUM_ENTRIES = 7


@pytest.fixture
def everywhere(monkeypatch, tmp_path):
    """Compile on this machine as on a GPU: all rows at once."""
    torch.compiler.reset()
    compiled._compiled.cache_clear()
    monkeypatch.setattr(compiled, "has_compiler", lambda device: True)
    monkeypatch.setattr(closed_form, "_stretches", lambda logits_Vn: [slice(0, len(logits_Vn))])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    yield
    compiled._compiled.cache_clear()
    torch.compiler.reset()


def compile_by(monkeypatch, backend: str | Callable[..., Any], **options: Any) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: original(
        function, dynamic=dynamic, backend=backend, **options
    ))  # fmt: skip


def calls(size: tuple[int, int, int]) -> list[tuple[Callable[..., Losses], Tensor, tuple[Any, ...]]]:
    """Each function with logits and what else it takes: with and without targets, and tails."""
    num_rows, num_positions, num_targets = size
    random = torch.Generator().manual_seed(num_positions)
    logits_Vn = 3 * torch.randn(num_rows, num_positions, generator=random)
    labels_n = torch.randint(num_rows, (num_positions,), generator=random)
    target_Vm = torch.randn(num_rows, num_targets, generator=random).softmax(0)
    id_Km = torch.rand(num_rows, num_targets, generator=random).argsort(0)[:NUM_ENTRIES]
    share_Km = torch.rand(NUM_ENTRIES, num_targets, generator=random).softmax(0)
    is_entry_Km = torch.ones_like(id_Km, dtype=torch.bool)
    tail_m = torch.full((num_targets,), 0.1)
    return [
        (dense_losses, logits_Vn, (labels_n, target_Vm, WEIGHTS)),
        (dense_losses, logits_Vn, (labels_n, None, WEIGHTS)),
        (sparse_losses, logits_Vn, (labels_n, (id_Km, share_Km, is_entry_Km), None, WEIGHTS)),
        (sparse_losses, logits_Vn, (labels_n, (id_Km, 0.9 * share_Km, is_entry_Km), tail_m, WEIGHTS)),
    ]


def assert_equal_forms(size: tuple[int, int, int]) -> None:
    for function, logits_Vn, others in calls(size):
        overwritten_Vn = logits_Vn.clone()
        found = function(overwritten_Vn, *others)
        expected = function.__wrapped__(logits_Vn.clone(), *others)  # type: ignore[attr-defined]
        for one, other in zip(vars(found).values(), vars(expected).values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert found.gradient_nV.data_ptr() == overwritten_Vn.data_ptr()  # no second tensor of this size


def test_whole_function_is_traced_for_all_sizes(everywhere, monkeypatch) -> None:
    compile_by(monkeypatch, "aot_eager", fullgraph=True)
    for size in SIZES:
        assert_equal_forms(size)


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs g++ on a processor")
def test_compiled_kernels_give_the_same(everywhere) -> None:
    assert_equal_forms(SIZES[0])


def test_what_the_compiler_refuses_runs_as_it_stands(everywhere, monkeypatch) -> None:
    asked = []

    def refuse(graph: Any, inputs: Any) -> Any:
        asked.append(graph)
        raise RuntimeError("no compiler for this device")

    compile_by(monkeypatch, refuse)
    assert_equal_forms(SIZES[0])
    assert asked


def test_processor_does_not_compile(monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("compiled on a processor"))
    assert not compiled.has_compiler(torch.device("cpu"))
    assert_equal_forms(SIZES[0])


@pytest.mark.parametrize(
    ("capability", "has_triton", "expected"),
    [((7, 5), True, True), ((6, 0), True, False), ((8, 0), False, False)],
)
def test_device_without_triton_does_not_compile(monkeypatch, capability, has_triton, expected) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    spec = object() if has_triton else None
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: spec)
    assert compiled.has_compiler.__wrapped__(torch.device("cuda")) is expected
