"""Cross-entropy and forward KL with their gradient in closed form, over logits that are overwritten by it.

Legend, at the end of names: n positions of a chunk, V student vocabulary, v some of its rows, K entries.

The default objective, and the hot path. With p the student, q the target, y the text's token, a and b the
weights of a position:

    loss     = a (-log p_y) + b sum q (log q - log p)
    gradient = (a + b) p - b q - a [y]            by the logits

Autograd would keep several (n, V) tensors for it. Here the logits become the probabilities and these the
gradient, in the same memory, in stretches of the vocabulary that stay in a processor's cache. For that the
logits lie as (V, n): a stretch is one piece, and so is what a matrix product reads and writes.

Of a cached target only the columns of its entries are there, with all others merged into one outcome where it
has a tail: r its probability, t the student's mass outside of the entries,

    loss     = a (-log p_y) + b (sum q (log q - log p) + r (log r - log t))
    gradient = (a + b) p - b q - a [y]            at the entries
               (a + b - b r / t) p - a [y]        elsewhere

Invariant: values and gradient equal autograd's over `divergences.divergence`.
"""

# ruff: noqa: N815 - the shape suffixes stand in names of arguments and fields too.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE_ELEMENTS = 1 << 20
"""Logits that are worked on at a time on a processor: 4 MiB in float32. A device takes all at once."""
LEAST_ROWS = 64
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Losses:
    """What a chunk costs, position by position, and the gradient of the weighted sum."""

    cross_entropy_n: Tensor
    divergence_n: Tensor
    """Forward KL; 0 where its weight is."""
    gradient_nV: Tensor
    """By the logits; in memory (V, n)."""


def dense_losses(
    logits_Vn: Tensor, labels_n: Tensor, target_Vn: Tensor | None, weights: tuple[Tensor, Tensor]
) -> Losses:
    """Return the losses under a target over the whole vocabulary.

    Args:
        logits_Vn: float32, the caller's own: it becomes the gradient.
        labels_n: the text's tokens.
        target_Vn: columns sum to 1, or are 0 where there is no target; None for cross-entropy alone.
        weights: a and b, (n,) each; b is 0 where there is no target.
    """
    text_n, kl_n = weights
    positions_n = torch.arange(len(labels_n), device=labels_n.device)
    reference_n = logits_Vn.amax(0)
    label_logit_n = logits_Vn[labels_n, positions_n]
    total_n, cross_n = torch.zeros_like(reference_n), torch.zeros_like(reference_n)
    for rows in _stretches(logits_Vn):
        logits_vn = logits_Vn[rows]
        if target_Vn is not None:
            target_vn = target_Vn[rows]
            cross_n += torch.xlogy(target_vn, target_vn).addcmul_(target_vn, logits_vn, value=-1).sum(0)
        total_n += logits_vn.sub_(reference_n).exp_().sum(0)
    log_total_n = reference_n + total_n.log()
    scale_n = (text_n + kl_n) / total_n
    for rows in _stretches(logits_Vn):
        logits_Vn[rows].mul_(scale_n)
        if target_Vn is not None:
            logits_Vn[rows].addcmul_(target_Vn[rows], kl_n, value=-1)
    logits_Vn[labels_n, positions_n] -= text_n
    divergence_n = torch.where(kl_n > 0, cross_n + log_total_n, 0.0)
    return Losses(log_total_n - label_logit_n, divergence_n, logits_Vn.T)


def sparse_losses(
    logits_Vn: Tensor,
    labels_n: Tensor,
    entries: tuple[Tensor, Tensor, Tensor],
    tail_n: Tensor | None,
    weights: tuple[Tensor, Tensor],
) -> Losses:
    """Return the losses under a target of few entries a position.

    Args:
        logits_Vn: float32, the caller's own: it becomes the gradient.
        labels_n: the text's tokens.
        entries: (K, n) each: columns, their probabilities, whether there is an entry; a column is in a
            position's entries at most once.
        tail_n: probability of all other columns together; None where they are left out.
        weights: a and b, (n,) each; b is 0 where there is no target.
    """
    text_n, kl_n = weights
    id_Kn, target_Kn, is_entry_Kn = entries
    positions_n = torch.arange(len(labels_n), device=labels_n.device)
    reference_n = logits_Vn.amax(0)
    label_logit_n = logits_Vn[labels_n, positions_n]
    target_Kn = torch.where(is_entry_Kn, target_Kn, 0.0)
    logit_Kn = logits_Vn.gather(0, id_Kn)
    cross_n = (torch.xlogy(target_Kn, target_Kn) - target_Kn * logit_Kn).sum(0)
    total_n = torch.zeros_like(reference_n)
    for rows in _stretches(logits_Vn):
        total_n += logits_Vn[rows].sub_(reference_n).exp_().sum(0)
    log_total_n = reference_n + total_n.log()
    added_Kn = -kl_n * target_Kn
    outside_n = text_n + kl_n
    if tail_n is not None:
        # Summed, not 1 minus the entries: of a sure student little is outside, and the difference is noise.
        logits_Vn.scatter_add_(0, id_Kn, torch.where(is_entry_Kn, -logits_Vn.gather(0, id_Kn), 0.0))
        tail_total_n = torch.zeros_like(total_n)
        for rows in _stretches(logits_Vn):
            tail_total_n += logits_Vn[rows].sum(0)
        student_tail_n = (tail_total_n / total_n).clamp_min(TINY)
        cross_n += torch.xlogy(tail_n, tail_n) - torch.xlogy(tail_n, student_tail_n)
        added_Kn += torch.where(is_entry_Kn, outside_n * (logit_Kn - log_total_n).exp(), 0.0)
        outside_n = outside_n - kl_n * tail_n / student_tail_n
    scale_n = outside_n / total_n
    for rows in _stretches(logits_Vn):
        logits_Vn[rows].mul_(scale_n)
    logits_Vn.scatter_add_(0, id_Kn, added_Kn)
    logits_Vn[labels_n, positions_n] -= text_n
    divergence_n = torch.where(kl_n > 0, cross_n + target_Kn.sum(0) * log_total_n, 0.0)
    return Losses(log_total_n - label_logit_n, divergence_n, logits_Vn.T)


def _stretches(logits_Vn: Tensor) -> list[slice]:
    num_rows, num_positions = logits_Vn.shape
    size = num_rows if logits_Vn.is_cuda else max(LEAST_ROWS, TILE_ELEMENTS // max(num_positions, 1))
    return [slice(begin, begin + size) for begin in range(0, num_rows, size)]
