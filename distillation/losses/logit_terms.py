"""The terms of an objective that read logits: by autograd over chunks, the usual sum in closed form.

Legend, at the end of names: N used positions, n positions of a chunk, m of them with a target, V student
vocabulary, K entries of a cached target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.aligners.targets import ChunkTargets
from distillation.config import DIVERGENCES
from distillation.kernels.batch import BatchView, Chunk
from distillation.kernels.chunked import (
    ChunkGradients,
    OutputLayer,
    by_autograd,
    chunked_output_loss,
    chunks_at,
    even_chunks,
)
from distillation.kernels.closed_form import Losses, Weights, dense_losses, sparse_losses
from distillation.kernels.online_softmax import ChunkMemory
from distillation.losses.divergences import divergence

if TYPE_CHECKING:
    from distillation.losses.objective import DistillationObjective


class LogitTerms:
    """The terms that read logits, for one batch."""

    def __init__(
        self, objective: DistillationObjective, view: BatchView, weights: Mapping[str, float]
    ) -> None:
        self.objective, self.view, self.weights = objective, view, weights
        self._memory = ChunkMemory()
        self.divergences = [name for name in DIVERGENCES if name in weights]
        self.source = objective.target_source(view, self._memory) if self.divergences else None
        names = [name for name in ("likelihood", "uld", "gold") if name in weights]
        self.terms = {name: objective.term(name, view) for name in names}

    def loss(self) -> tuple[Tensor, Tensor]:
        """Return the weighted sum over all positions, and the statistics as `statistic_names` names them."""
        view = self.view
        layers = [view.layer]
        if self.source is not None and self.source.companion_layer is not None:
            layers.append(self.source.companion_layer)
        sizes = self.objective.chunk_sizes(view)
        size = sizes.closed_form if self._has_closed_form else sizes.autograd
        chunks = even_chunks(len(view.labels_N), size)
        if "gold" in self.terms:
            chunks = chunks_at(_ends_of_groups(view.group_N), size)
        gradients = self._closed_form if self._has_closed_form else by_autograd(self._loss_of_chunk)
        return chunked_output_loss(layers, gradients, chunks)

    @property
    def _has_closed_form(self) -> bool:
        """Whether the sum is cross-entropy and forward KL over one softmax."""
        if self.weights.keys() - {"cross_entropy", "forward_kl"}:
            return False
        if self.source is None:
            return True
        is_plain = self.source.companion_layer is None and self.source.aligner.student_support_V is None
        return is_plain and self.objective.settings.temperature == 1.0

    def _closed_form(self, layers: Sequence[OutputLayer], positions: slice) -> ChunkGradients:
        order_n = torch.arange(positions.start, positions.stop, device=self.view.labels_N.device)
        targets = None
        if self.source is not None:
            # Before the student's logits, so that teacher and student are not in memory together.
            targets = self.source.of_chunk(positions)
            order_n = targets.and_others(order_n)
        labels_n = self.view.labels_N[order_n]
        weights = Weights(self.weights.get("cross_entropy", 0.0), self.weights.get("forward_kl", 0.0))
        losses = _losses(layers[0].logits_by_row(order_n, self._memory.logits), labels_n, targets, weights)
        found = self._no_statistics(losses.cross_entropy_n)
        found["sum.cross_entropy"] = losses.cross_entropy_n.sum()
        num_targets = len(losses.divergence_m)
        if targets is not None:
            count = torch.full_like(found["residual"], num_targets)
            found["num_targets"] = found["count.forward_kl"] = count
            found["residual"], found["sum.forward_kl"] = targets.residual_m.sum(), losses.divergence_m.sum()
        text_n = weights.of_text(len(labels_n), num_targets, losses.cross_entropy_n)
        loss = text_n @ losses.cross_entropy_n + weights.kl * losses.divergence_m.sum()
        return ChunkGradients(loss, self._stacked(found), [losses.gradient_nV], order_n)

    def _no_statistics(self, like_n: Tensor) -> dict[str, Tensor]:
        """Return zeros for a chunk of positions, which are counted."""
        zero = like_n.new_zeros(())
        found = dict.fromkeys(self.objective.statistic_names, zero)
        found["num_tokens"] = found["count.cross_entropy"] = torch.full_like(zero, len(like_n))
        return found

    def _stacked(self, found: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([found[name].detach() for name in self.objective.statistic_names])

    def _loss_of_chunk(self, logits: tuple[Tensor, ...], positions: slice) -> tuple[Tensor, Tensor]:
        chunk = Chunk(logits[0], positions, self.view.labels_N[positions])
        cross_entropy = chunk.cross_entropy_n.sum()
        total = self.weights.get("cross_entropy", 0.0) * cross_entropy
        found = self._no_statistics(chunk.cross_entropy_n)
        found["sum.cross_entropy"] = cross_entropy
        if self.source is not None:
            total = total + self._divergences(chunk, logits[1:], found)
        for name, term in self.terms.items():
            value, count = term(chunk)
            total = total + self.weights[name] * value
            found |= {f"sum.{name}": value, f"count.{name}": count}
        return total, self._stacked(found)

    def _divergences(
        self, chunk: Chunk, companion_logits: tuple[Tensor, ...], found: dict[str, Tensor]
    ) -> Tensor:
        """Return the weighted divergences of a chunk, and note in `found` what they are."""
        assert self.source is not None
        settings = self.objective.settings
        targets = self.source.of_chunk(chunk.positions, *companion_logits)
        target_mV = targets.target_mV.contiguous()
        log_student_mV = targets.student(self._log_student(chunk, settings.temperature)[targets.index_m])
        count = torch.full_like(targets.companion_loss, len(targets.index_m))
        found["num_targets"], found["residual"] = count, targets.residual_m.sum()
        found["companion"] = targets.companion_loss
        total = targets.companion_loss
        for name in self.divergences:
            value = divergence(name, target_mV, log_student_mV, settings.skew).sum()
            total = total + self.weights[name] * settings.temperature**2 * value
            found |= {f"sum.{name}": value, f"count.{name}": count}
        has_no_target_n = torch.ones_like(chunk.cross_entropy_n).index_fill(0, targets.index_m, 0.0)
        fallback = sum(self.weights[name] for name in self.divergences)
        return total + fallback * (has_no_target_n * chunk.cross_entropy_n).sum()

    def _log_student(self, chunk: Chunk, temperature: float) -> Tensor:
        assert self.source is not None
        support_V = self.source.aligner.student_support_V
        if support_V is None:
            return chunk.log_probs(temperature)
        return (chunk.logits_nV.masked_fill(~support_V, -torch.inf) / temperature).log_softmax(-1)


def _losses(logits_Vn: Tensor, labels_n: Tensor, targets: ChunkTargets | None, weights: Weights) -> Losses:
    """Return the losses of a chunk in closed form; the positions with a target come first."""
    if targets is None:
        return dense_losses(logits_Vn, labels_n, None, Weights(weights.text + weights.kl, 0.0))
    target_Vm, columns = targets.target_mV.T, targets.columns
    if columns is None:
        return dense_losses(logits_Vn, labels_n, target_Vm, weights)
    num_entries = columns.id_mK.shape[1]
    entries = (columns.id_mK.T, target_Vm[:num_entries], columns.is_entry_mK.T)
    tail_m = target_Vm[num_entries] if columns.has_tail else None
    return sparse_losses(logits_Vn, labels_n, entries, tail_m, weights)


def _ends_of_groups(group_N: Tensor) -> list[int]:
    """Return where chunks may end: after the last position of each group."""
    if not len(group_N):
        return [0]
    ends = torch.ones_like(group_N, dtype=torch.bool)
    ends[:-1] = (group_N[1:] != group_N[:-1]) | (group_N[1:] < 0)
    return (ends.nonzero().squeeze(1) + 1).tolist()
