"""Losses in closed form against autograd over the written-out divergences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from objective_reference import make_batch
from torch import Tensor

from distillation.aligners.targets import Columns
from distillation.config import ObjectiveSettings, TermWeights
from distillation.kernels import closed_form
from distillation.kernels.chunked import OutputLayer
from distillation.kernels.closed_form import Losses, Weights, dense_losses, sparse_losses
from distillation.kernels.online_softmax import Workspace
from distillation.losses.divergences import divergence
from distillation.losses.objective import DistillationObjective, LogitTerms
from distillation.teachers.live import LiveTeacher
from distillation.training.trainer import distilling

NUM_POSITIONS, NUM_TARGETS, WIDTH = 7, 5, 24
WEIGHTS = Weights(0.1, 0.9)


@pytest.fixture(params=[1, 20, 1 << 20], ids=["one row", "some rows", "all rows"], autouse=True)
def stretch(request, monkeypatch) -> None:
    """Stretches of the vocabulary of every size give the same."""
    monkeypatch.setattr(closed_form, "TILE_ELEMENTS", request.param)
    monkeypatch.setattr(closed_form, "LEAST_ROWS", 1)


def make_case(scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and labels of all positions, targets of all but the last two."""
    random = torch.Generator().manual_seed(0)
    logits_nV = scale * torch.randn(NUM_POSITIONS, WIDTH, generator=random, dtype=torch.float64)
    target_mV = (4 * torch.randn(NUM_TARGETS, WIDTH, generator=random, dtype=torch.float64)).softmax(-1)
    target_mV[1, 5:] = 0.0
    target_mV[1] /= target_mV[1].sum()
    return logits_nV, torch.randint(0, WIDTH, (NUM_POSITIONS,), generator=random), target_mV


def by_autograd(logits_nV: Tensor, labels_n: Tensor, divergence_of: Callable[[Tensor], Tensor]) -> tuple:
    leaf_nV = logits_nV.clone().requires_grad_()
    log_probs_nV = leaf_nV.log_softmax(-1)
    cross_n = -log_probs_nV.gather(1, labels_n[:, None]).squeeze(1)
    kl_m = divergence_of(log_probs_nV[:NUM_TARGETS])
    without = cross_n[NUM_TARGETS:].sum()
    loss = WEIGHTS.text * cross_n.sum() + WEIGHTS.kl * (kl_m.sum() + without)
    (gradient_nV,) = torch.autograd.grad(loss, leaf_nV)
    return cross_n.detach(), kl_m.detach(), gradient_nV


def by_row(logits_nV: Tensor) -> Tensor:
    return logits_nV.T.contiguous()


@pytest.mark.parametrize("scale", [0.0, 3.0, 200.0])
def test_dense_losses_equal_autograd(scale: float) -> None:
    logits_nV, labels_n, target_mV = make_case(scale)
    expected = by_autograd(
        logits_nV, labels_n, lambda log_mV: divergence("forward_kl", target_mV, log_mV, 0.0)
    )
    found = dense_losses(by_row(logits_nV), labels_n, by_row(target_mV), WEIGHTS)
    for one, other in zip(vars(found).values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert found.gradient_nV.sum(1).abs().max() < 1e-12  # a softmax does not feel a shift


def test_text_alone_is_cross_entropy() -> None:
    logits_nV, labels_n, _ = make_case()
    found = dense_losses(by_row(logits_nV), labels_n, None, Weights(1.0, 0.0))
    expected_n = torch.nn.functional.cross_entropy(logits_nV, labels_n, reduction="none")
    torch.testing.assert_close(found.cross_entropy_n, expected_n)
    assert not len(found.divergence_m)


@pytest.mark.parametrize("has_tail", [False, True])
@pytest.mark.parametrize("scale", [0.0, 3.0, 30.0])
def test_sparse_losses_equal_autograd(has_tail: bool, scale: float) -> None:
    logits_nV, labels_n, target_mV = make_case(scale)
    target_mK, id_mK = target_mV.topk(4, dim=1)
    is_entry_mK = (target_mK > 0) & (torch.arange(4) < torch.tensor([4, 4, 1, 2, 3])[:, None])
    id_mK = torch.where(is_entry_mK, id_mK, id_mK[:, :1])  # what is no entry may name any column
    target_mK = torch.where(is_entry_mK, target_mK, 0.0)
    tail_m = (1 - target_mK.sum(1)) if has_tail else None
    if tail_m is None:
        target_mK = target_mK / target_mK.sum(1, keepdim=True)
    columns = Columns(id_mK, is_entry_mK, has_tail)
    outcomes = target_mK if tail_m is None else torch.cat([target_mK, tail_m[:, None]], 1)
    expected = by_autograd(
        logits_nV, labels_n, lambda log_mV: divergence("forward_kl", outcomes, columns.student(log_mV), 0.0)
    )
    entries = (by_row(id_mK), by_row(target_mK), by_row(is_entry_mK))
    found = sparse_losses(by_row(logits_nV), labels_n, entries, tail_m, WEIGHTS)
    for one, other in zip(vars(found).values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_dense_gradient_equals_finite_differences() -> None:
    logits_nV, labels_n, target_mV = make_case()

    def losses(logits_nV: Tensor) -> Losses:
        return dense_losses(by_row(logits_nV), labels_n, by_row(target_mV), WEIGHTS)

    def loss(logits_nV: Tensor) -> Tensor:
        found = losses(logits_nV)
        text_n = WEIGHTS.of_text(NUM_POSITIONS, NUM_TARGETS, found.cross_entropy_n)
        return text_n @ found.cross_entropy_n + WEIGHTS.kl * found.divergence_m.sum()

    for position, column in ((0, 0), (1, 7), (2, 3), (6, 23), (3, int(labels_n[3]))):
        step_nV = torch.zeros_like(logits_nV)
        step_nV[position, column] = 1e-6
        slope = (loss(logits_nV + step_nV) - loss(logits_nV - step_nV)) / 2e-6
        assert float(losses(logits_nV).gradient_nV[position, column]) == pytest.approx(float(slope), abs=1e-8)


def test_excluded_columns_are_no_nan() -> None:
    logits_NV = torch.randn(3, 6)
    logits_NV[:, 4:] = -torch.inf
    logits_Vn = OutputLayer(logits_NV).logits_by_row(slice(0, 3), Workspace())
    found = dense_losses(logits_Vn, torch.arange(3), torch.eye(6)[:, :3].contiguous(), Weights(1.0, 1.0))
    assert torch.isfinite(found.divergence_m).all()
    assert torch.isfinite(found.gradient_nV).all()
    assert not found.gradient_nV[:, 4:].any()


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("chunk_size", [5, 1000])
def test_the_objective_is_the_same_by_autograd(models, monkeypatch, weight: float, chunk_size: int) -> None:
    """A batch with tails, inner positions and positions without a target; loss, gradients and statistics."""
    student, aligner, batch = make_batch(models, "prefix", same=False)
    batch["teacher_position"][:, 3] = -1
    terms = TermWeights(cross_entropy=1 - weight, forward_kl=weight)
    teacher = LiveTeacher(models["teacher"]) if weight else None
    found = []
    for has_closed_form in (True, False):
        monkeypatch.setattr(LogitTerms, "_has_closed_form", has_closed_form)
        settings = ObjectiveSettings(terms=terms, chunk_size=chunk_size)
        objective = DistillationObjective(settings, aligner if weight else None, teacher)
        student.zero_grad()
        with distilling(student, objective):
            outputs = student(**batch)
            outputs["loss"].backward()
        gradients = [parameter.grad.clone() for parameter in student.parameters()]
        found.append([outputs["loss"].detach(), outputs["statistics"], *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-7)
