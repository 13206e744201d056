"""The distillation objective: what one batch costs the student.

Legend, at the end of names: B windows, T student positions, S teacher positions, M = B x S teacher rows,
N used positions, n positions of a chunk, m of them with a target, D width, U teacher vocabulary, V student
vocabulary.

Every position weighs the same. With a target from the teacher it costs

    (1 - w) x cross-entropy(text) + w x T^2 x divergence(target || student at temperature T)

and without one (no aligned teacher position, or nothing the student could write) the cross-entropy alone.
The sum over positions is divided by the number of student tokens. Padding never enters: only used positions
reach an output layer.

Invariants: equal tokenizers make this plain knowledge distillation; w = 0 is plain language modelling.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.alignment.base import Aligner, Rows
from distillation.config import ObjectiveSettings
from distillation.objectives.chunked import chunked_output_loss
from distillation.objectives.divergences import divergence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distillation.teacher.live import LiveTeacher

CHUNK_ELEMENTS = 1 << 25
"""Logits of teacher and student, with their gradients, that may exist at a time: 128 MiB in float32."""
IGNORED = -100
STATISTICS = ("cross_entropy", "divergence", "residual", "num_tokens", "num_targets")


@dataclass(frozen=True)
class StudentOutput:
    """The student's side of a batch: what its output layer turns into logits."""

    hidden_BTD: Tensor
    """Last hidden states; logits (B, T, V) where `weight_VD` is None."""
    weight_VD: Tensor | None
    bias_V: Tensor | None
    num_rows: int
    """V."""


class DistillationObjective:
    """Computes the loss of a batch; see the module's docstring.

    Args:
        settings: weight, divergence, temperature, chunk size.
        aligner: turns the teacher's rows into targets; None for text alone.
        teacher: runs the teacher; None for text alone.
    """

    def __init__(
        self, settings: ObjectiveSettings, aligner: Aligner | None = None, teacher: LiveTeacher | None = None
    ) -> None:
        self.settings = settings
        self.uses_teacher = settings.distillation_weight > 0
        if self.uses_teacher and (aligner is None or teacher is None):
            raise ValueError("a distillation weight above 0 needs an aligner and a teacher")
        self.aligner = aligner
        self.teacher = teacher

    def __call__(
        self, student: StudentOutput, batch: Mapping[str, Tensor], num_items: Tensor | int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (loss, statistics).

        Args:
            student: hidden states of the student for `batch`.
            batch: as `training.windows.WindowCollator` makes it.
            num_items: student tokens to divide by; those of this batch if None.

        Returns:
            The loss, a scalar, and float32 (5,): sums over the batch as `STATISTICS` names them.
        """
        labels_BT = batch["shift_labels"]
        used_BT = labels_BT != IGNORED
        labels_N = labels_BT[used_BT]
        targets = _TeacherTargets.of(self, batch, used_BT) if self.uses_teacher else None
        weight = self.settings.distillation_weight
        temperature = self.settings.temperature

        def loss_of_chunk(logits_nV: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
            cross_entropy_n = torch.nn.functional.cross_entropy(logits_nV, labels_N[chunk], reduction="none")
            zero = cross_entropy_n.new_zeros(())
            if targets is None:
                total, divergence_sum, residual_sum, num_targets = cross_entropy_n.sum(), zero, zero, zero
            else:
                index_m, target_mV, residual_m = targets.of_chunk(chunk)
                log_student_mV = self._log_student(logits_nV[index_m], temperature)
                divergence_m = divergence(
                    self.settings.divergence, target_mV, log_student_mV, self.settings.skew
                )
                text_weight_n = torch.ones_like(cross_entropy_n)
                text_weight_n[index_m] = 1 - weight
                total = (text_weight_n * cross_entropy_n).sum()
                total = total + weight * temperature**2 * divergence_m.sum()
                divergence_sum, residual_sum = divergence_m.sum(), residual_m.sum()
                num_targets = zero + len(index_m)
            num_tokens = zero + len(cross_entropy_n)
            statistics = [cross_entropy_n.sum(), divergence_sum, residual_sum, num_tokens, num_targets]
            return total, torch.stack(statistics)

        loss, statistics = chunked_output_loss(
            student.hidden_BTD[used_BT],
            student.weight_VD,
            student.bias_V,
            loss_of_chunk,
            self.chunk_size(student.num_rows),
        )
        return loss / (labels_N.numel() if num_items is None else num_items), statistics

    def chunk_size(self, num_student_rows: int) -> int:
        """Return how many positions fit into `CHUNK_ELEMENTS` logits."""
        if self.settings.chunk_size is not None:
            return self.settings.chunk_size
        # Student: logits, log-probabilities, target, gradient. Teacher: logits and log-probabilities.
        elements = 4 * num_student_rows
        if self.aligner is not None:
            elements += 2 * self.aligner.num_teacher_rows
        return max(32, CHUNK_ELEMENTS // elements)

    def _log_student(self, logits_mV: Tensor, temperature: float) -> Tensor:
        assert self.aligner is not None
        support_V = self.aligner.student_support_V
        if support_V is not None:
            logits_mV = logits_mV.masked_fill(~support_V, -torch.inf)
        return (logits_mV / temperature).log_softmax(-1)


@dataclass(frozen=True)
class _TeacherTargets:
    """The teacher's side of a batch, turned into targets a chunk of student positions at a time."""

    objective: DistillationObjective
    states_MD: Tensor
    """Teacher states of all windows, flattened to M = B x S rows."""
    row_N: Tensor
    """Teacher row of each used student position; -1 without one."""
    rows: Rows

    @classmethod
    def of(
        cls, objective: DistillationObjective, batch: Mapping[str, Tensor], used_BT: Tensor
    ) -> _TeacherTargets:
        """Run the teacher on `batch` and look up what every used student position needs."""
        assert objective.teacher is not None
        states_BSD = objective.teacher.states(batch["teacher_input_ids"], batch["teacher_attention_mask"])
        labels_BS = batch["teacher_labels"]
        num_windows, num_teacher_positions = labels_BS.shape
        window_B = torch.arange(num_windows, device=labels_BS.device)
        position_BT = batch["teacher_position"]
        row_BT = torch.where(position_BT >= 0, position_BT + window_B[:, None] * num_teacher_positions, -1)
        row_N, num_tail_N = row_BT[used_BT], batch["num_tail"][used_BT]
        states_MD, labels_M = states_BSD.flatten(0, 1), labels_BS.flatten()
        rows = Rows(
            teacher_token_N=labels_M[row_N.clamp_min(0)].clamp_min(0),
            student_token_N=batch["shift_labels"][used_BT],
            num_emitted_N=batch["num_emitted"][used_BT],
            num_tail_N=num_tail_N,
            tail_log_prob_N=cls._tails(objective, states_MD, labels_M, row_N, num_tail_N),
        )
        return cls(objective, states_MD, row_N, rows)

    @staticmethod
    def _tails(
        objective: DistillationObjective,
        states_MD: Tensor,
        labels_M: Tensor,
        row_N: Tensor,
        num_tail_N: Tensor,
    ) -> Tensor:
        """Return the summed log-probability of the teacher tokens that each student token runs on into."""
        assert objective.teacher is not None
        tail_N = torch.zeros(len(row_N), dtype=torch.float32, device=row_N.device)
        num_tail_N = torch.where(row_N >= 0, num_tail_N, 0)
        owner_R = torch.repeat_interleave(torch.arange(len(row_N), device=row_N.device), num_tail_N)
        if len(owner_R) == 0:
            return tail_N
        first_R = (num_tail_N.cumsum(0) - num_tail_N)[owner_R]
        step_R = torch.arange(len(owner_R), device=row_N.device) - first_R + 1
        row_R = row_N[owner_R] + step_R
        log_prob_R = objective.teacher.token_log_probs(
            states_MD[row_R], labels_M[row_R], objective.settings.temperature
        )
        return tail_N.index_add_(0, owner_R, log_prob_R)

    def of_chunk(self, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return (positions of the chunk that have a target, their targets (m, V), residual (m,))."""
        objective = self.objective
        assert objective.teacher is not None
        assert objective.aligner is not None
        with torch.no_grad():
            index_m = (self.row_N[chunk] >= 0).nonzero().squeeze(1)
            chosen = index_m + chunk.start
            log_probs_mU = objective.teacher.log_probs(
                self.states_MD[self.row_N[chosen]], objective.settings.temperature
            )
            rows = Rows(**{name: value[chosen] for name, value in vars(self.rows).items()})
            targets = objective.aligner.targets(log_probs_mU, rows)
            if bool(targets.usable_N.all()):
                return index_m, targets.probabilities_NV, targets.residual_N
            usable = targets.usable_N
            return index_m[usable], targets.probabilities_NV[usable], targets.residual_N[usable]
