"""Divergences between the teacher's target and the student, position by position.

Legend, at the end of names: N positions, V student vocabulary. p is the teacher's target, q the student.

    forward_kl          KL(p || q)                              covers all of the teacher's modes
    reverse_kl          KL(q || p)                              seeks one mode (MiniLLM, arXiv 2306.08543)
    jensen_shannon      (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2
    skewed_forward_kl   KL(p || a p + (1 - a) q)                (DistiLLM, arXiv 2402.03898)
    skewed_reverse_kl   KL(q || a q + (1 - a) p)                (DistiLLM)
    adaptive_kl         h KL(p || q) + (1 - h) KL(q || p)       (AKL, arXiv 2404.02657)
    total_variation     sum |p - q| / 2

h is the share of sum |p - q| that lies on the head of p: its likeliest tokens, up to half of the mass. Where
the student is wrong about the head forward KL weighs more, where it is wrong about the tail reverse KL.

Invariants: every divergence is zero for equal arguments and never negative; gradients flow into q alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from distillation.config import DivergenceName
from distillation.kernels.chunked import LEAST_LOGIT
from distillation.kernels.closed_form import LEAST_PROBABILITY

if TYPE_CHECKING:
    from torch import Tensor

HEAD_MASS = 0.5
"""Mass of the teacher's head in adaptive_kl."""
ZERO_STANDS_FOR = 1e-6
"""What a true zero of the target counts as where reverse KL takes its logarithm.

An aligner's target has zeros that say nothing about the text: a student token that no teacher token leads to.
Each costs the student -log of this; 1e-30 let those costs drown the rest, and the student got worse. A
softmax has no true zeros, so equal tokenizers are not touched."""


def divergence(name: DivergenceName, target_NV: Tensor, log_student_NV: Tensor, skew: float) -> Tensor:
    """Return the divergence of each position, float32 (N,).

    Args:
        name: one of the names above.
        target_NV: probabilities p; rows sum to 1.
        log_student_NV: log-probabilities log q; -inf outside the student's support, where p is 0.
        skew: a, for the skewed kinds.
    """
    # Columns outside the support take no part; without this 0 x -inf is NaN.
    log_student_NV = log_student_NV.clamp_min(LEAST_LOGIT)
    return _DIVERGENCES[name](target_NV, log_student_NV, skew)


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(LEAST_PROBABILITY).log()


def _forward_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    return (target * (_log(target) - log_student)).sum(-1)


def _reverse_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    log_target = target.masked_fill(target == 0, ZERO_STANDS_FOR).log()
    return (log_student.exp() * (log_student - log_target)).sum(-1)


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


def _adaptive_kl(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    gap = (target - log_student.detach().exp()).abs()
    likeliest, order = target.sort(dim=-1, descending=True)
    # A token belongs to the head if less than half of the mass lies before it.
    is_head = likeliest.cumsum(-1) - likeliest < HEAD_MASS
    head = (gap.gather(-1, order) * is_head).sum(-1)
    head_share = head / gap.sum(-1).clamp_min(LEAST_PROBABILITY)
    forward, reverse = _forward_kl(target, log_student, skew), _reverse_kl(target, log_student, skew)
    return head_share * forward + (1 - head_share) * reverse


def _total_variation(target: Tensor, log_student: Tensor, skew: float) -> Tensor:
    return (target - log_student.exp()).abs().sum(-1) / 2


_DIVERGENCES: dict[DivergenceName, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jensen_shannon": _jensen_shannon,
    "skewed_forward_kl": _skewed_forward_kl,
    "skewed_reverse_kl": _skewed_reverse_kl,
    "adaptive_kl": _adaptive_kl,
    "total_variation": _total_variation,
}
