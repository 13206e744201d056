"""The loss over cached targets against loops, the dense divergence and finite differences."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distillation.aligners.targets import Columns
from distillation.config import DIVERGENCES, CacheSettings
from distillation.losses.divergences import divergence
from distillation.teachers.cache.replay import CachedTargets
from distillation.teachers.cache.sparse import SparseRows, largest, largest_and_drawn

NUM_ROWS, WIDTH = 6, 12


def make_rows() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(NUM_ROWS, WIDTH, generator=random, dtype=torch.float64)
    logits[1, 3:] = -torch.inf  # fewer tokens than k, and no tail
    student = torch.randn(NUM_ROWS, WIDTH, generator=random, dtype=torch.float64)
    return logits.softmax(-1), student


def laid_out(rows: SparseRows) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, weights and whether there is an entry, (m, K) each."""
    is_entry_mK = torch.arange(int(rows.num_entries_m.max())) < rows.num_entries_m[:, None]
    id_mK, weight_mK = torch.zeros(is_entry_mK.shape, dtype=torch.int64), torch.zeros(is_entry_mK.shape)
    id_mK[is_entry_mK], weight_mK[is_entry_mK] = rows.id_E, rows.weight_E.float()
    return id_mK, weight_mK, is_entry_mK


def padded(target_mV: Tensor, k: int) -> tuple[Columns, Tensor]:
    """The likeliest of each row as the collator lays them out."""
    rows = largest(target_mV.float(), k)
    id_mK, weight_mK, is_entry_mK = laid_out(rows)
    target_mK = torch.cat([weight_mK, rows.tail_m[:, None]], 1).double()
    return Columns(id_mK, is_entry_mK, has_tail=True), target_mK / target_mK.sum(1, keepdim=True)


@pytest.mark.parametrize("k", [1, 4, WIDTH - 1])
def test_top_k_equals_the_formula(k: int) -> None:
    target_mV, student_mV = make_rows()
    columns, target_mK = padded(target_mV, k)
    found_m = divergence("forward_kl", target_mK, columns.student(student_mV.log_softmax(-1)), 0.0)
    for row in range(NUM_ROWS):
        p, q = target_mV[row].tolist(), student_mV[row].softmax(-1).tolist()
        chosen = sorted(range(WIDTH), key=lambda column: -p[column])[:k]
        expected = sum(p[i] * math.log(p[i] / q[i]) for i in chosen if p[i] > 0)
        tail_p, tail_q = 1 - sum(p[i] for i in chosen), 1 - sum(q[i] for i in chosen)
        if tail_p > 1e-9:
            expected += tail_p * math.log(tail_p / tail_q)
        assert float(found_m[row]) == pytest.approx(expected, abs=2e-3)  # float16 probabilities


@pytest.mark.parametrize("k", [3, WIDTH])
def test_top_k_gradient_equals_finite_differences(k: int) -> None:
    target_mV, student_mV = make_rows()
    columns, target_mK = padded(target_mV, k)

    def loss(logits_mV: Tensor) -> Tensor:
        return divergence("forward_kl", target_mK, columns.student(logits_mV.log_softmax(-1)), 0.0).sum()

    assert torch.autograd.gradcheck(loss, student_mV.clone().requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_with_all_tokens_it_is_the_dense_divergence(name: str) -> None:
    target_mV, student_mV = make_rows()
    columns, target_mK = padded(target_mV, WIDTH)
    log_student_mV = student_mV.log_softmax(-1)
    found_m = divergence(name, target_mK, columns.student(log_student_mV), 0.1)
    expected_m = divergence(name, target_mV, log_student_mV, 0.1)
    has_no_zero = [0, 2, 3, 4, 5]  # a zero that was not stored has no price under reverse KL
    assert torch.allclose(found_m[has_no_zero], expected_m[has_no_zero], atol=5e-3)


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon", "total_variation"])
def test_merged_outcomes_never_cost_more(name: str) -> None:
    target_mV, student_mV = make_rows()
    log_student_mV = student_mV.log_softmax(-1)
    columns, target_mK = padded(target_mV, 3)
    merged_m = divergence(name, target_mK, columns.student(log_student_mV), 0.1)
    assert (merged_m <= divergence(name, target_mV, log_student_mV, 0.1) + 2e-3).all()


def test_a_student_without_other_columns_has_no_tail() -> None:
    """A restricted student (`shared`): nothing but the entries is possible, and the gradient stays finite."""
    logits_mV = torch.zeros(1, 5, dtype=torch.float64)
    logits_mV[0, 2:] = -torch.inf
    leaf = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    columns = Columns(torch.tensor([[0, 1]]), torch.tensor([[True, True]]), has_tail=True)
    target = torch.tensor([[0.75, 0.25, 0.0]], dtype=torch.float64)
    loss = divergence("forward_kl", target, columns.student((leaf + logits_mV).log_softmax(-1)), 0.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert leaf.grad is not None
    assert leaf.grad[0, :2].tolist() == pytest.approx([-0.25, 0.25])
    assert not leaf.grad[0, 2:].any()


@pytest.mark.parametrize("is_forward_kl", [True, False])
def test_draws_of_the_tail_serve_forward_kl_alone(is_forward_kl: bool) -> None:
    target_mV, _ = make_rows()
    k, num_draws = 3, 4
    uniform_m = torch.full((NUM_ROWS,), 0.5, dtype=torch.float64)
    rows = largest_and_drawn(target_mV.float(), uniform_m, k, num_draws)
    id_mK, weight_mK, _ = laid_out(rows)
    batch = {
        "cached_num_entries": rows.num_entries_m[None],
        "cached_id": id_mK.int()[None],
        "cached_weight": weight_mK[None],
        "cached_tail": rows.tail_m[None],
        "cached_residual": torch.zeros(1),
    }
    view: Any = SimpleNamespace(used_BT=torch.ones(1, NUM_ROWS, dtype=torch.bool), batch=batch)
    settings = CacheSettings(kind="top_k", k=k, num_tail_samples=num_draws)
    source = CachedTargets(view, None, settings, is_forward_kl)  # type: ignore[arg-type]
    targets = source.of_chunk(slice(0, NUM_ROWS))
    columns = targets.columns
    assert columns is not None
    assert columns.has_tail is not is_forward_kl
    assert torch.allclose(targets.target_mV.sum(1), torch.ones(NUM_ROWS))
    likeliest_mk = target_mV.topk(k).values.float()
    assert torch.allclose(targets.target_mV[:, :k], likeliest_mk, atol=1e-3)
    assert columns.id_mK.shape[1] == (id_mK.shape[1] if is_forward_kl else k)
    if not is_forward_kl:
        assert torch.allclose(targets.target_mV[:, k], rows.tail_m, atol=1e-3)
