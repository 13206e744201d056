"""Divergences: textbook values, finite differences, zero at equality, masked columns."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from distillation.config import DivergenceName
from distillation.losses.divergences import divergence

NAMES = get_args(DivergenceName)


def random_pair(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(5, 11, generator=generator, dtype=dtype).softmax(-1)
    return target, torch.randn(5, 11, generator=generator, dtype=dtype)


def head_share(p: list[float], q: list[float]) -> float:
    """Share of sum |p - q| on the likeliest tokens of p, taken until half of the mass is reached."""
    head, mass = 0.0, 0.0
    for index in sorted(range(len(p)), key=lambda index: -p[index]):
        if mass < 0.5:
            head += abs(p[index] - q[index])
        mass += p[index]
    return head / sum(abs(x - y) for x, y in zip(p, q, strict=True))


def textbook(name: str, p: list[float], q: list[float], skew: float) -> float:
    """Plain Python, one term at a time."""
    from math import log

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    def mix(a: list[float], b: list[float], share: float) -> list[float]:
        return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]

    middle = mix(p, q, 0.5)
    share = head_share(p, q)
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jensen_shannon": lambda: (kl(p, middle) + kl(q, middle)) / 2,
        "skewed_forward_kl": lambda: kl(p, mix(p, q, skew)),
        "skewed_reverse_kl": lambda: kl(q, mix(q, p, skew)),
        "adaptive_kl": lambda: share * kl(p, q) + (1 - share) * kl(q, p),
        "total_variation": lambda: sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2,
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_textbook(name: DivergenceName) -> None:
    target, logits = random_pair(0)
    values = divergence(name, target, logits.log_softmax(-1), 0.1)
    for row in range(len(target)):
        expected = textbook(name, target[row].tolist(), logits[row].softmax(-1).tolist(), 0.1)
        assert values[row].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_by_finite_differences(name: DivergenceName) -> None:
    target, logits = random_pair(1)
    logits.requires_grad_()
    if name == "adaptive_kl":  # its weights follow the student, and carry no gradient
        value = divergence(name, target, logits.log_softmax(-1), 0.1).sum()
        (found,) = torch.autograd.grad(value, logits)
        shares = [head_share(p.tolist(), q.tolist()) for p, q in zip(target, logits.softmax(-1), strict=True)]
        share = torch.tensor(shares, dtype=torch.float64)
        parts = [
            divergence(kind, target, logits.log_softmax(-1), 0.1) for kind in ("forward_kl", "reverse_kl")
        ]
        (expected,) = torch.autograd.grad((share * parts[0] + (1 - share) * parts[1]).sum(), logits)
        torch.testing.assert_close(found, expected)
        return
    assert torch.autograd.gradcheck(lambda z: divergence(name, target, z.log_softmax(-1), 0.1), logits)


@pytest.mark.parametrize("name", NAMES)
def test_is_zero_only_at_equality(name: DivergenceName) -> None:
    target, logits = random_pair(2)
    assert divergence(name, target, target.log(), 0.1).abs().max() < 1e-12
    assert (divergence(name, target, logits.log_softmax(-1), 0.1) > 1e-4).all()


@pytest.mark.parametrize("name", NAMES)
def test_columns_outside_the_support_take_no_part(name: DivergenceName) -> None:
    target, logits = random_pair(3, torch.float32)
    support = torch.arange(11) < 7
    target = target.masked_fill(~support, 0.0)
    target = target / target.sum(-1, keepdim=True)
    masked = logits.masked_fill(~support, -torch.inf).requires_grad_()
    value = divergence(name, target, masked.log_softmax(-1), 0.1)
    narrow = divergence(name, target[:, :7], logits[:, :7].log_softmax(-1), 0.1)
    torch.testing.assert_close(value, narrow, atol=1e-6, rtol=0)
    value.sum().backward()
    assert torch.isfinite(masked.grad).all()
    assert (masked.grad[:, 7:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_true_zeros_of_a_target_do_not_drown_the_rest(name: DivergenceName) -> None:
    target, logits = random_pair(4)
    target[:, 3:6] = 0.0
    target /= target.sum(-1, keepdim=True)
    logits.requires_grad_()
    value = divergence(name, target, logits.log_softmax(-1), 0.1)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert (value < 14).all(), "-log of a millionth, at most"
    assert torch.isfinite(grad).all()
