"""The aligner's targets of a batch, a chunk of student positions at a time.

Legend, at the end of names: B windows, T student positions, M teacher rows of all windows, N used positions,
n positions of a chunk, m of them with a target, R covered teacher rows, U teacher vocabulary, V student
vocabulary, K width of a companion's output layer.

An aligner that learns has a *companion*: modules that are trained beside the student, with an output layer of
their own. The target is detached from both: no gradient of the divergence reaches the companion, and none of
the companion's own loss reaches the student, so that it cannot collapse onto it.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.aligners.base import Aligner, Rows, Targets
from distillation.kernels.chunked import LEAST_LOGIT
from distillation.kernels.online_softmax import ChunkMemory

if TYPE_CHECKING:
    from distillation.aligners.trained_heads import Companion
    from distillation.kernels.batch import BatchView


@dataclass(frozen=True)
class Columns:
    """Which of the student's columns a chunk's targets speak of."""

    id_mK: Tensor
    """int64; where there is no entry, any."""
    is_entry_mK: Tensor
    """bool."""
    has_tail: bool

    def student(self, log_student_mV: Tensor) -> Tensor:
        """Return the student's log-probabilities of the same outcomes, (m, K) or (m, K + 1)."""
        log_student_mK = log_student_mV.gather(1, self.id_mK).masked_fill(~self.is_entry_mK, LEAST_LOGIT)
        if not self.has_tail:
            return log_student_mK
        # An entry that is none must not strike out a column: it repeats the row's first, which is one.
        column_mK = torch.where(self.is_entry_mK, self.id_mK, self.id_mK[:, :1])
        tail_m = log_student_mV.scatter(1, column_mK, LEAST_LOGIT).logsumexp(1)
        return torch.cat([log_student_mK, tail_m[:, None]], dim=1)


@dataclass(frozen=True)
class ChunkTargets:
    """Targets of a chunk of positions."""

    index_m: Tensor
    """Positions of the chunk that have a target, in any order."""
    target_mV: Tensor
    """float32; each row sums to 1. Of `columns` alone where those are given."""
    residual_m: Tensor
    """Share of the teacher's mass that no student token could carry."""
    companion_loss: Tensor
    """What the companion minimises, summed over the positions; 0 without one."""
    columns: Columns | None = None
    """Which outcomes a cached target speaks of; None for the whole vocabulary."""

    def and_others(self, positions_n: Tensor) -> Tensor:
        """Return the chunk's positions, those with a target first, in the targets' order."""
        is_other_n = torch.ones_like(positions_n, dtype=torch.bool).index_fill_(0, self.index_m, False)
        return torch.cat([positions_n[self.index_m], positions_n[is_other_n]])

    def student(self, log_student_mV: Tensor) -> Tensor:
        """Return the student's log-probabilities of the outcomes that the target speaks of."""
        return log_student_mV if self.columns is None else self.columns.student(log_student_mV)


class TargetSource:
    """The targets of one batch under one aligner.

    Args:
        view: the batch.
        aligner: of the current stage.
        temperature: of both distributions.
        suffix: of the names under which the collator put this stage's alignment.
        companion: of an aligner that learns.
        memory: to compute a chunk in, with what comes after its targets.
    """

    def __init__(
        self,
        view: BatchView,
        aligner: Aligner,
        temperature: float,
        suffix: str = "",
        companion: Companion | None = None,
        memory: ChunkMemory | None = None,
    ) -> None:
        self.view, self.aligner, self.temperature, self.companion = view, aligner, temperature, companion
        batch, used_BT = view.batch, view.used_BT
        self.row_N = view.teacher_rows(batch[f"teacher_position{suffix}"])
        num_tail_N = batch[f"num_tail{suffix}"][used_BT]
        tail_log_prob_N = torch.zeros(len(self.row_N), device=self.row_N.device)
        if aligner.reads_log_probs:
            tail_log_prob_N = self._tails(num_tail_N)
        self.rows = Rows(
            teacher_token_N=view.teacher_labels_M[self.row_N.clamp_min(0)].clamp_min(0),
            student_token_N=view.labels_N,
            num_emitted_N=batch[f"num_emitted{suffix}"][used_BT],
            num_tail_N=num_tail_N,
            tail_log_prob_N=tail_log_prob_N,
        )
        self._memory = memory or ChunkMemory()
        self.companion_layer = None if companion is None else companion.layer(view, self.row_N)

    def of_chunk(self, chunk: slice, companion_logits_nV: Tensor | None = None) -> ChunkTargets:
        """Return the targets of the positions `chunk`, which the next call may overwrite.

        Args:
            chunk: positions.
            companion_logits_nV: the companion's logits of all of them, if there is one.
        """
        index_m = (self.row_N[chunk] >= 0).nonzero().squeeze(1)
        # Boundaries first: their rows differ from each other, and an aligner may write them where they stand.
        is_inside_m = self.rows.num_emitted_N[index_m + chunk.start] > 0
        index_m = torch.cat([index_m[~is_inside_m], index_m[is_inside_m]])
        chosen = index_m + chunk.start
        student_token_m = self.rows.student_token_N[chosen]
        base = self._from_log_probs(chosen) if self.aligner.reads_log_probs else None
        companion_loss = torch.zeros((), device=index_m.device)
        if self.companion is None:
            assert base is not None
            targets = base
        else:
            assert companion_logits_nV is not None
            targets, companion_loss = self.companion.targets(
                companion_logits_nV[index_m], base, student_token_m
            )
        if bool(targets.usable_N.all()):
            return ChunkTargets(index_m, targets.probabilities_NV, targets.residual_N, companion_loss)
        usable = targets.usable_N
        return ChunkTargets(
            index_m[usable], targets.probabilities_NV[usable], targets.residual_N[usable], companion_loss
        )

    @torch.no_grad()
    def _from_log_probs(self, chosen_m: Tensor) -> Targets:
        # Positions inside of one teacher token share its row. In the order of their first position.
        row_R, own_m = _first_seen(self.row_N[chosen_m])
        teacher = self.view.teacher.rows(self.view.teacher_states_MD[row_R], self.temperature)
        return self.aligner.targets_of(teacher, own_m, self.rows[chosen_m], self._memory)

    def _tails(self, num_tail_N: Tensor) -> Tensor:
        """Return the summed log-probability of the teacher tokens that each student token runs on into."""
        view, row_N = self.view, self.row_N
        tail_N = torch.zeros(len(row_N), dtype=torch.float32, device=row_N.device)
        owner_R, row_R = tail_rows(row_N, num_tail_N)
        if len(owner_R) == 0:
            return tail_N
        log_prob_R = view.teacher.token_log_probs(
            view.teacher_states_MD[row_R], view.teacher_labels_M[row_R], self.temperature
        )
        return tail_N.index_add_(0, owner_R, log_prob_R)


def _first_seen(row_m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct values in the order in which they come first, and the place of each among them."""
    sorted_R, own_m = row_m.unique(return_inverse=True)
    places_m = torch.arange(len(row_m), device=row_m.device)
    first_R = torch.full_like(sorted_R, len(row_m)).scatter_reduce_(0, own_m, places_m, "amin")
    order_R = first_R.argsort()
    rank_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=row_m.device))
    return sorted_R[order_R], rank_R[own_m]


def tail_rows(row_N: Tensor, num_tail_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return (position, row of the teacher) of each teacher token that a student token runs on into."""
    num_tail_N = torch.where(row_N >= 0, num_tail_N, 0)
    owner_R = torch.repeat_interleave(torch.arange(len(row_N), device=row_N.device), num_tail_N)
    first_R = (num_tail_N.cumsum(0) - num_tail_N)[owner_R]
    step_R = torch.arange(len(owner_R), device=row_N.device) - first_R + 1
    return owner_R, row_N[owner_R] + step_R
