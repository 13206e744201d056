"""Universal logit distillation, a baseline: sorted probabilities, whatever they stand for.

Legend, at the end of names: n positions of a chunk, m of them with a teacher row, U teacher vocabulary, V
student vocabulary.

    loss = sum_i | sort(p_S)_i - sort(p_T)_i |,   the shorter side filled up with zeros

at student position j against the teacher's row j of the same window (ULD, arXiv 2402.12030). Nothing is
aligned and no token's identity is looked at; the paper adds it to cross-entropy with a weight of 1.5.

Invariant: equals the formula position by position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from distillation.kernels.batch import BatchView, Chunk


class UldTerm:
    """The term `uld` of one batch.

    Args:
        view: the batch.
        temperature: of both softmaxes.
    """

    def __init__(self, view: BatchView, temperature: float) -> None:
        self.view, self.temperature = view, temperature
        labels_BS = view.batch["teacher_labels"]
        num_rows_B = (labels_BS >= 0).sum(1)
        position_BT = torch.arange(view.used_BT.shape[1], device=labels_BS.device).expand_as(view.used_BT)
        self.row_N = view.teacher_rows(torch.where(position_BT < num_rows_B[:, None], position_BT, -1))

    def __call__(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return (loss, positions with a row), summed."""
        row_n = self.row_N[chunk.positions]
        index_m = (row_n >= 0).nonzero().squeeze(1)
        states_mD = self.view.teacher_states_MD[row_n[index_m]]
        teacher_mU = self.view.teacher.log_probs(states_mD, self.temperature).exp()
        student_mV = chunk.log_probs(self.temperature)[index_m].exp()
        loss = sorted_difference(student_mV, teacher_mU).sum()
        return loss, torch.full_like(loss.detach(), len(index_m))


def sorted_difference(student_mV: Tensor, teacher_mU: Tensor) -> Tensor:
    """Return (m,): the summed difference of both rows, sorted from large to small."""
    student = student_mV.sort(dim=-1, descending=True).values
    teacher = teacher_mU.sort(dim=-1, descending=True).values
    width = max(student.shape[-1], teacher.shape[-1])
    pad = torch.nn.functional.pad
    difference = pad(student, (0, width - student.shape[-1])) - pad(teacher, (0, width - teacher.shape[-1]))
    return difference.abs().sum(-1)
