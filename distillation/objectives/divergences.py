"""Divergences between the teacher's target and the student, position by position.

Legend, at the end of names: N positions, V student vocabulary. p is the teacher's target, q the student.

    forward_kl          KL(p || q)                              covers all of the teacher's modes
    reverse_kl          KL(q || p)                              seeks one mode (MiniLLM, arXiv 2306.08543)
    jensen_shannon      (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2
    skewed_forward_kl   KL(p || a p + (1 - a) q)                (DistiLLM, arXiv 2402.03898)
    skewed_reverse_kl   KL(q || a q + (1 - a) p)                (DistiLLM)
    total_variation     sum |p - q| / 2

Invariants: every divergence is zero for equal arguments and never negative; gradients flow into q alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from distillation.config import DivergenceName

if TYPE_CHECKING:
    from torch import Tensor

LEAST_PROBABILITY = 1e-30
"""Stands for zero in a logarithm: an aligner's target has true zeros, and reverse_kl would be infinite."""


def divergence(name: DivergenceName, target_NV: Tensor, log_student_NV: Tensor, skew: float) -> Tensor:
    """Return the divergence of each position, float32 (N,).

    Args:
        name: one of the names above.
        target_NV: probabilities p; rows sum to 1.
        log_student_NV: log-probabilities log q; -inf outside the student's support, where p is 0.
        skew: a, for the skewed kinds.
    """
    # Columns outside the support take no part; without this 0 x -inf is NaN.
    log_student_NV = log_student_NV.clamp_min(-1e4)
    return _DIVERGENCES[name](target_NV, log_student_NV, skew)


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(LEAST_PROBABILITY).log()


def _forward_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    return (target * (_log(target) - log_student)).sum(-1)


def _reverse_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    return (log_student.exp() * (log_student - _log(target))).sum(-1)


def _jensen_shannon(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    student = log_student.exp()
    log_middle = _log((target + student) / 2)
    return (
        (target * (_log(target) - log_middle)).sum(-1) + (student * (log_student - log_middle)).sum(-1)
    ) / 2


def _skewed_forward_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    mixture = skew * target + (1 - skew) * log_student.exp()
    return (target * (_log(target) - _log(mixture))).sum(-1)


def _skewed_reverse_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    student = log_student.exp()
    mixture = skew * student + (1 - skew) * target
    return (student * (log_student - _log(mixture))).sum(-1)


def _total_variation(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    return (target - log_student.exp()).abs().sum(-1) / 2


_DIVERGENCES: dict[DivergenceName, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jensen_shannon": _jensen_shannon,
    "skewed_forward_kl": _skewed_forward_kl,
    "skewed_reverse_kl": _skewed_reverse_kl,
    "total_variation": _total_variation,
}
