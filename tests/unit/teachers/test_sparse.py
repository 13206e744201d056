"""Samples and likeliest tokens of a target, against loops, and that a sample is unbiased."""

from __future__ import annotations

import math

import pytest
import torch

from distillation.losses.divergences import divergence
from distillation.teachers.cache.sparse import SparseRows, largest, largest_and_drawn, systematic_sample


def make_targets(num_rows: int, width: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_rows, width, generator=random)
    logits[:, ::5] = -torch.inf  # zeros of an aligner's target
    return logits.softmax(-1)


def as_dicts(rows: SparseRows) -> list[dict[int, float]]:
    found, begin = [], 0
    for num in rows.num_entries_m.tolist():
        entries = slice(begin, begin + num)
        found.append(dict(zip(rows.id_E[entries].tolist(), rows.weight_E[entries].tolist(), strict=True)))
        begin += num
    assert begin == len(rows.id_E) == len(rows.weight_E)
    return found


def naive_sample(target: list[float], uniform: float, num_samples: int) -> dict[int, int]:
    total = math.fsum(target)
    counts: dict[int, int] = {}
    for draw in range(num_samples):
        point, column, mass = (draw + uniform) / num_samples * total, 0, target[0]
        while mass <= point and column < len(target) - 1:
            column += 1
            mass += target[column]
        counts[column] = counts.get(column, 0) + 1
    return counts


@pytest.mark.parametrize("num_samples", [1, 7, 50])
def test_sample_equals_the_naive_one(num_samples: int) -> None:
    target_mV = make_targets(40, 60)
    uniform_m = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = systematic_sample(target_mV, uniform_m, num_samples)
    expected = [
        naive_sample(target, uniform, num_samples)
        for target, uniform in zip(target_mV.double().tolist(), uniform_m.tolist(), strict=True)
    ]
    assert as_dicts(rows) == expected
    begin = 0
    for num in rows.num_entries_m.tolist():
        is_single = rows.weight_E[begin : begin + num] == 1
        assert is_single.tolist() == sorted(is_single.tolist()), "counts of 1 stand last"
        begin += num


def dense_samples(target_V: torch.Tensor, uniform_m: torch.Tensor, num_samples: int) -> torch.Tensor:
    """c / N of many draws from one target, float64 (m, V)."""
    rows = systematic_sample(target_V.expand(len(uniform_m), -1), uniform_m, num_samples)
    row_E = torch.repeat_interleave(torch.arange(len(uniform_m)), rows.num_entries_m)
    sample_mV = torch.zeros(len(uniform_m), len(target_V), dtype=torch.float64)
    sample_mV[row_E, rows.id_E] = rows.weight_E.double() / num_samples
    return sample_mV


def forward_kl_gradients(logits_V: torch.Tensor, target_mV: torch.Tensor) -> torch.Tensor:
    leaf_mV = logits_V.expand(len(target_mV), -1).clone().requires_grad_()
    divergence("forward_kl", target_mV, leaf_mV.log_softmax(-1), 0.0).sum().backward()
    assert leaf_mV.grad is not None
    return leaf_mV.grad


def test_sample_and_its_gradient_are_unbiased() -> None:
    """Averaged over u, c / N and the gradient of forward KL are those of the dense target.

    As a function of u each count steps at most twice, so over an even grid its mean is exact to 2 / points.
    """
    num_points, num_samples = 5000, 5
    target_V = make_targets(1, 30, seed=3)[0].double()
    logits_V = torch.randn(30, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    uniform_m = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    sample_mV = dense_samples(target_V, uniform_m, num_samples)
    assert torch.allclose(sample_mV.sum(1), torch.ones(num_points, dtype=torch.float64))
    assert (sample_mV - target_V).abs().max() < 1 / num_samples
    exact = 2 / num_points / num_samples
    assert (sample_mV.mean(0) - target_V).abs().max() <= exact
    gradient_V = forward_kl_gradients(logits_V, sample_mV).mean(0)
    assert (gradient_V - forward_kl_gradients(logits_V, target_V[None])[0]).abs().max() <= exact
    biased_V = target_V**1.1 / (target_V**1.1).sum()
    assert (sample_mV.mean(0) - biased_V).abs().max() > 20 * exact


def test_the_mean_over_seeds_is_the_target_within_its_error() -> None:
    num_draws, num_samples = 6000, 8
    target_V = torch.randn(12, generator=torch.Generator().manual_seed(6)).softmax(-1)
    uniform_m = torch.rand(num_draws, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    logits_V = torch.randn(12, generator=torch.Generator().manual_seed(8))
    sample_mV = dense_samples(target_V, uniform_m, num_samples)
    gradients_mV = forward_kl_gradients(logits_V, sample_mV.float())
    expected_V = forward_kl_gradients(logits_V, target_V[None])[0]
    for found_mV, mean_V in ((sample_mV, target_V), (gradients_mV, expected_V)):
        error_V = found_mV.std(0) / math.sqrt(num_draws)
        assert ((found_mV.mean(0) - mean_V).abs() <= 4 * error_V + 1e-6).all()


def test_sample_varies_less_than_independent_draws() -> None:
    num_draws, num_samples = 3000, 10
    target_V = make_targets(1, 30, seed=6)[0].double()
    uniform_m = torch.rand(num_draws, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    sample_mV = dense_samples(target_V, uniform_m, num_samples)
    independent = (target_V * (1 - target_V) / num_samples).sum()
    assert sample_mV.var(0).sum() < 0.8 * independent
    assert sample_mV.var(0).max() <= 1.05 / (4 * num_samples**2)


def test_largest_keeps_the_likeliest_and_the_rest_of_the_mass() -> None:
    target_mV = make_targets(20, 40)
    target_mV[0] = 0.0
    target_mV[0, 7] = 1.0
    rows = largest(target_mV, 6)
    assert as_dicts(rows)[0] == {7: 1.0}
    for row, found in enumerate(as_dicts(rows)):
        values = target_mV[row].tolist()
        order = sorted(range(40), key=lambda column: -values[column])[: len(found)]
        assert set(found) == set(order)
        for column, probability in found.items():
            assert probability == pytest.approx(values[column], rel=1e-3)
        rest = 1 - math.fsum(sorted(values, reverse=True)[:6])
        assert float(rows.tail_m[row]) == pytest.approx(max(rest, 0.0), abs=1e-6)
    assert largest(target_mV, 100).tail_m.abs().max() < 1e-6


def test_draws_stand_after_the_likeliest_and_share_the_rest() -> None:
    target_mV = make_targets(20, 40)
    target_mV[0] = 0.0
    target_mV[0, 7] = 1.0  # nothing to draw from
    uniform_m = torch.rand(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    head, both = largest(target_mV, 6), largest_and_drawn(target_mV, uniform_m, 6, 5)
    assert torch.equal(head.tail_m, both.tail_m)
    assert as_dicts(both)[0] == {7: 1.0}
    for row, (likeliest, found) in enumerate(zip(as_dicts(head), as_dicts(both), strict=True)):
        assert dict(list(found.items())[: len(likeliest)]) == likeliest
        drawn = dict(list(found.items())[len(likeliest) :])
        assert not likeliest.keys() & drawn.keys()
        assert all(float(target_mV[row, column]) > 0 for column in drawn)
        if row:
            others = [0.0 if column in likeliest else p for column, p in enumerate(target_mV[row].tolist())]
            counts = naive_sample(others, float(uniform_m[row]), 5)
            tail = float(head.tail_m[row])
            assert drawn == pytest.approx({i: n * tail / 5 for i, n in counts.items()}, rel=2e-3)
    assert as_dicts(largest_and_drawn(target_mV, uniform_m, 6, 0)) == as_dicts(head)


def test_the_likeliest_with_draws_are_unbiased() -> None:
    num_points, num_samples = 2000, 4
    target_V = make_targets(1, 30, seed=3)[0].double()
    uniform_m = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    rows = largest_and_drawn(target_V.expand(num_points, -1), uniform_m, 5, num_samples)
    mean_V = torch.zeros(30, dtype=torch.float64)
    mean_V.index_add_(0, rows.id_E, rows.weight_E.double() / num_points)
    torch.testing.assert_close(mean_V, target_V, rtol=1e-3, atol=2e-5)  # float16
    biased_V = target_V**1.1 / (target_V**1.1).sum()
    assert (mean_V - biased_V).abs().max() > 2e-3
