"""A target over the student's vocabulary as few entries: a sample of it, or its likeliest tokens and a sample
of the others.

Legend, at the end of names: m positions, V student vocabulary, N draws, E entries of all positions together.

Sampling is systematic: one uniform number u a position, and the N points (i + u) / N on the target's
cumulated probabilities. The token i is drawn c_i times with E[c_i] = N q_i, so c / N is an unbiased target
and, forward KL being linear in it, its gradient is unbiased: as with independent draws (Random Sampling
Knowledge Distillation, arXiv 2503.16870), but c_i never differs from N q_i by one or more, so the variance of
an entry is at most 1 / (4 N^2), where independent draws have q_i (1 - q_i) / N.

Invariants: counts of a position sum to N; their mean over u is N q; the likeliest are the target's own, and
the mean over u of what is drawn beside them is the rest of it.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_TAIL = 2e-5
"""Mass outside of the likeliest that is worth draws; less may be what rounding left."""


@dataclass(frozen=True)
class SparseRows:
    """Entries of m rows, one row after another."""

    num_entries_m: Tensor
    """int64."""
    id_E: Tensor
    """int64: columns."""
    weight_E: Tensor
    """int64 counts of a sample, those of 1 last in each row; float16 probabilities of the likeliest, and
    after them the shares of the tail that draws from it stand for."""
    tail_m: Tensor
    """float32: mass outside of the likeliest; 0 for a sample."""


def systematic_sample(target_mV: Tensor, uniform_m: Tensor, num_samples: int) -> SparseRows:
    """Draw `num_samples` columns of each row.

    Args:
        target_mV: non-negative; rows sum to 1.
        uniform_m: float64, from 0 to below 1.
        num_samples: N.
    """
    # In float32 the rounding of thousands of sums would be a bias.
    cumulated_mV = target_mV.double().cumsum(1)
    cumulated_mV /= cumulated_mV[:, -1:].clone()
    steps_N = torch.arange(num_samples, dtype=torch.float64, device=target_mV.device)
    points_mN = (steps_N + uniform_m[:, None]) / num_samples
    # The first column whose cumulated mass is beyond the point: never one of probability 0.
    drawn_mN = torch.searchsorted(cumulated_mV, points_mN, right=True).clamp_max(target_mV.shape[1] - 1)
    is_new_mN = torch.ones_like(drawn_mN, dtype=torch.bool)
    is_new_mN[:, 1:] = drawn_mN[:, 1:] != drawn_mN[:, :-1]
    begin_E = is_new_mN.flatten().nonzero().squeeze(1)
    count_E = torch.diff(begin_E, append=begin_E.new_tensor([drawn_mN.numel()]))
    # Most counts are 1; with those at the end of a row a cache need not store them.
    order_E = (2 * (begin_E // num_samples) + (count_E == 1)).argsort(stable=True)
    nothing_m = torch.zeros_like(target_mV[:, 0])
    return SparseRows(is_new_mN.sum(1), drawn_mN[is_new_mN][order_E], count_E[order_E], nothing_m)


def largest(target_mV: Tensor, k: int) -> SparseRows:
    """Keep the `k` likeliest columns of each row that float16 does not round to zero."""
    probabilities_mk, columns_mk = target_mV.topk(min(k, target_mV.shape[1]), dim=1)
    rounded_mk = probabilities_mk.half()
    is_kept_mk = rounded_mk > 0
    tail_m = (1.0 - probabilities_mk.double().sum(1)).clamp_min(0.0).float()
    return SparseRows(is_kept_mk.sum(1), columns_mk[is_kept_mk], rounded_mk[is_kept_mk], tail_m)


def largest_and_drawn(target_mV: Tensor, uniform_m: Tensor, k: int, num_samples: int) -> SparseRows:
    """Keep the `k` likeliest columns of each row, and after them draws from the others.

    A row whose likeliest columns are all of it has no draws.

    Args:
        target_mV: non-negative; rows sum to 1.
        uniform_m: float64, from 0 to below 1.
        k: likeliest columns.
        num_samples: draws from the others.
    """
    head = largest(target_mV, k)
    is_drawn_m = (head.num_entries_m == k) & (head.tail_m > LEAST_TAIL)
    row_m = is_drawn_m.nonzero().squeeze(1)
    if not num_samples or not len(row_m):
        return head
    head_row_E = _rows_of(head.num_entries_m)
    # Rows of the draws, r, have k entries each.
    id_rk = head.id_E[is_drawn_m[head_row_E]].view(-1, k)
    others_rV = target_mV[row_m].scatter_(1, id_rk, 0.0)
    drawn = systematic_sample(others_rV, uniform_m[row_m], num_samples)
    drawn_row_E = row_m[_rows_of(drawn.num_entries_m)]
    share_E = (drawn.weight_E * (head.tail_m / num_samples)[drawn_row_E]).half()
    order_E = torch.cat([head_row_E, drawn_row_E]).argsort(stable=True)
    return SparseRows(
        head.num_entries_m.index_add(0, row_m, drawn.num_entries_m),
        torch.cat([head.id_E, drawn.id_E])[order_E],
        torch.cat([head.weight_E, share_E])[order_E],
        head.tail_m,
    )


def _rows_of(num_entries_m: Tensor) -> Tensor:
    """Return the row of each entry."""
    return torch.arange(len(num_entries_m), device=num_entries_m.device).repeat_interleave(num_entries_m)
