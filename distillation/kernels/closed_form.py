"""Cross-entropy and forward KL with their gradient in closed form, over logits that are overwritten by it.

Legend, at the end of names: n positions of a chunk, the first m of them with a target, V student vocabulary,
v some of its rows, K entries.

The default objective, and the hot path. With p the student, q the target, y the text's token, a and b the
weights,

    loss     = a (-log p_y) + b sum q (log q - log p)
    gradient = (a + b) p - b q - a [y]            by the logits

and a position without a target has weight a + b on the text. Autograd would keep several (n, V) tensors for
it. Here the logits become the probabilities and these the gradient, in the same memory, in stretches of the
vocabulary that stay in a processor's cache; on a GPU all of it at once, compiled. For that the logits lie as
(V, n): a stretch is one piece, and so is what a matrix product reads and writes.

Of a cached target only the columns of its entries are there, with all others merged into one outcome where it
has a tail: r its probability, t the student's mass outside of the entries,

    loss     = a (-log p_y) + b (sum q (log q - log p) + r (log r - log t))
    gradient = (a + b) p - b q - a [y]            at the entries
               (a + b - b r / t) p - a [y]        elsewhere

Invariant: values and gradient equal autograd's over `divergences.divergence`.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillation.kernels.compiled import compiled_on_device

LEAST_PROBABILITY = 1e-30
TILE_ELEMENTS = 1 << 20
"""Logits that are worked on at a time on a processor: 4 MiB in float32. A device takes all at once."""
LEAST_ROWS = 64
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Weights:
    """a and b."""

    text: float
    kl: float

    def of_text(self, num_positions: int, num_targets: int, like: Tensor) -> Tensor:
        """Return (n,): the weight of the text at each position."""
        text_n = like.new_full((num_positions,), self.text)
        text_n[num_targets:] += self.kl
        return text_n


@dataclass(frozen=True)
class Losses:
    """What a chunk costs, position by position, and the gradient of the weighted sum."""

    cross_entropy_n: Tensor
    divergence_m: Tensor
    """Forward KL."""
    gradient_nV: Tensor
    """By the logits; in memory (V, n)."""


@compiled_on_device
def dense_losses(logits_Vn: Tensor, labels_n: Tensor, target_Vm: Tensor | None, weights: Weights) -> Losses:
    """Return the losses under a target over the whole vocabulary.

    Args:
        logits_Vn: float32, the caller's own: it becomes the gradient.
        labels_n: the text's tokens.
        target_Vm: of the first m positions; columns sum to 1. None where there are none.
        weights: a and b.
    """
    num_targets = 0 if target_Vm is None else target_Vm.shape[1]
    positions_n = torch.arange(len(labels_n), device=labels_n.device)
    reference_n = logits_Vn.amax(0)
    label_logit_n = logits_Vn[labels_n, positions_n]
    total_n = torch.zeros_like(reference_n)
    cross_m = torch.zeros_like(reference_n[:num_targets])
    for rows in _stretches(logits_Vn):
        logits_vn = logits_Vn[rows]
        if target_Vm is not None:
            target_vm = target_Vm[rows]
            log_target_vm = target_vm.clamp_min(LEAST_PROBABILITY).log_()
            cross_m += log_target_vm.sub_(logits_vn[:, :num_targets]).mul_(target_vm).sum(0)
        total_n += logits_vn.sub_(reference_n).exp_().sum(0)
    log_total_n = reference_n + total_n.log()
    scale_n = (weights.text + weights.kl) / total_n
    for rows in _stretches(logits_Vn):
        logits_vn = logits_Vn[rows].mul_(scale_n)
        if target_Vm is not None:
            logits_vn[:, :num_targets].sub_(target_Vm[rows], alpha=weights.kl)
    logits_Vn[labels_n, positions_n] -= weights.of_text(len(labels_n), num_targets, log_total_n)
    divergence_m = cross_m + log_total_n[:num_targets]
    return Losses(log_total_n - label_logit_n, divergence_m, logits_Vn.T)


@compiled_on_device
def sparse_losses(
    logits_Vn: Tensor,
    labels_n: Tensor,
    entries: tuple[Tensor, Tensor, Tensor],
    tail_m: Tensor | None,
    weights: Weights,
) -> Losses:
    """Return the losses under a target of few entries a position.

    Args:
        logits_Vn: float32, the caller's own: it becomes the gradient.
        labels_n: the text's tokens.
        entries: (K, m) each, of the first m positions: columns, their probabilities, whether there is an
            entry; a column is in a position's entries at most once.
        tail_m: probability of all other columns together; None where they are left out.
        weights: a and b.
    """
    id_Km, target_Km, is_entry_Km = entries
    num_targets = id_Km.shape[1]
    positions_n = torch.arange(len(labels_n), device=labels_n.device)
    reference_n = logits_Vn.amax(0)
    label_logit_n = logits_Vn[labels_n, positions_n]
    target_Km = torch.where(is_entry_Km, target_Km, 0.0)
    logits_Vm = logits_Vn[:, :num_targets]
    logit_Km = logits_Vm.gather(0, id_Km)
    cross_m = (torch.xlogy(target_Km, target_Km) - target_Km * logit_Km).sum(0)
    total_n = torch.zeros_like(reference_n)
    for rows in _stretches(logits_Vn):
        total_n += logits_Vn[rows].sub_(reference_n).exp_().sum(0)
    log_total_n = reference_n + total_n.log()
    added_Km = -weights.kl * target_Km
    share_n = torch.full_like(total_n, weights.text + weights.kl)
    if tail_m is not None:
        # Summed, not 1 minus the entries: of a sure student little is outside, and the difference is noise.
        logits_Vm.scatter_add_(0, id_Km, torch.where(is_entry_Km, -logits_Vm.gather(0, id_Km), 0.0))
        outside_m = torch.zeros_like(cross_m)
        for rows in _stretches(logits_Vn):
            outside_m += logits_Vm[rows].sum(0)
        outside_m = (outside_m / total_n[:num_targets]).clamp_min(TINY)
        cross_m += torch.xlogy(tail_m, tail_m) - torch.xlogy(tail_m, outside_m)
        probability_Km = (logit_Km - log_total_n[:num_targets]).exp()
        added_Km += torch.where(is_entry_Km, share_n[:num_targets] * probability_Km, 0.0)
        share_n[:num_targets] -= weights.kl * tail_m / outside_m
    scale_n = share_n / total_n
    for rows in _stretches(logits_Vn):
        logits_Vn[rows].mul_(scale_n)
    logits_Vm.scatter_add_(0, id_Km, added_Km)
    logits_Vn[labels_n, positions_n] -= weights.of_text(len(labels_n), num_targets, log_total_n)
    divergence_m = cross_m + target_Km.sum(0) * log_total_n[:num_targets]
    return Losses(log_total_n - label_logit_n, divergence_m, logits_Vn.T)


def _stretches(logits_Vn: Tensor) -> list[slice]:
    num_rows, num_positions = logits_Vn.shape
    size = num_rows if logits_Vn.is_cuda else max(LEAST_ROWS, TILE_ELEMENTS // max(num_positions, 1))
    return [slice(begin, begin + size) for begin in range(0, num_rows, size)]
