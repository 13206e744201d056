"""What is trained beside the student: the correction of `learned`, the cross-model attention of `attention`.

Legend, at the end of names: B windows, T student positions, S teacher positions, M teacher rows, N used
positions, m positions with a target, D width of the student, E width of the teacher, K rank, V student
vocabulary.

`learned`. The target q0 of the byte-prefix rule is corrected by a low-rank function of the teacher's state h,

    log q = log softmax(log q0 + B A h),   A: K x E,   B: V x K, zero at first,

trained by the likelihood of the text's own tokens under q. The student learns from q detached, and q does not
depend on the student: the two cannot meet in the middle.

`attention` (DSKD-CMA, arXiv 2406.17328). Each student position attends over all positions of the teacher's
window by what is read and what comes next (e_in and e_next, detached embeddings):

    Q = W_q [e_in ; e_next] of the student,   Y = [e_in ; e_next] / std of the teacher
    A = softmax(Q Y' / sqrt(2 D)),            z = A (W (h / std + e_next / std)) H'

with the student's output layer H detached. W_q and W learn from the cross-entropy of z on the text; z
detached is the target at the positions where its most likely token is the text's own. The paper's second
direction, the student in the teacher's space, is left out: it trains no target.

Invariant: no gradient of a companion's loss reaches the student, and none of a divergence the companion.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distillation.aligners.base import Targets
from distillation.kernels.batch import standardised
from distillation.kernels.chunked import OutputLayer

if TYPE_CHECKING:
    from distillation.kernels.batch import BatchView

FLOOR = 1e-4
"""Mass spread evenly over the student's vocabulary before the correction: what the rule excludes entirely
could not be learned otherwise."""


class Companion(nn.Module):
    """Modules of an aligner that learns."""

    def layer(self, view: BatchView, row_N: Tensor) -> OutputLayer:
        """Return the output layer over the N used positions, of which those with `row_N` >= 0 count."""
        raise NotImplementedError

    def targets(
        self, logits_mV: Tensor, base: Targets | None, student_token_m: Tensor
    ) -> tuple[Targets, Tensor]:
        """Return (detached targets, the companion's own loss summed over the positions).

        Args:
            logits_mV: of `layer`, with gradient.
            base: the rule's targets, if the aligner has any.
            student_token_m: the text's own tokens.
        """
        raise NotImplementedError


class LearnedCorrection(Companion):
    """Corrects the prefix rule by a low-rank function of the teacher's state."""

    def __init__(self, teacher_width: int, num_student_rows: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(teacher_width, rank, bias=False)
        self.up_VK = nn.Parameter(torch.zeros(num_student_rows, rank))

    def layer(self, view: BatchView, row_N: Tensor) -> OutputLayer:
        """See `Companion.layer`."""
        states_ND = view.teacher_states_MD[row_N.clamp_min(0)].to(self.down.weight.dtype)
        return OutputLayer(self.down(standardised(states_ND)), self.up_VK)

    def targets(
        self, logits_mV: Tensor, base: Targets | None, student_token_m: Tensor
    ) -> tuple[Targets, Tensor]:
        """See `Companion.targets`."""
        assert base is not None
        log_base_mV = (base.probabilities_NV + FLOOR / logits_mV.shape[1]).log()
        log_target_mV = (log_base_mV + logits_mV).log_softmax(-1)
        own_m = log_target_mV.gather(1, student_token_m[:, None]).squeeze(1)
        loss = -torch.where(base.usable_N, own_m, 0.0).sum()
        return Targets(log_target_mV.detach().exp(), base.residual_N, base.usable_N), loss


class CrossModelAttention(Companion):
    """Attends from student positions over teacher positions and writes in the student's vocabulary."""

    def __init__(self, teacher_width: int, student_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(2 * student_width, 2 * teacher_width, bias=False)
        self.value = nn.Linear(teacher_width, student_width, bias=False)

    def layer(self, view: BatchView, row_N: Tensor) -> OutputLayer:
        """See `Companion.layer`."""
        batch, student = view.batch, view.student
        assert student.embedding_VD is not None
        embedding_VD = student.embedding_VD.detach().to(self.value.weight.dtype)
        embedding_UE = view.teacher.embedding_UE.to(self.value.weight.dtype)
        query_BTE = self.query(_read_and_next(embedding_VD, batch["input_ids"], batch["shift_labels"]))
        key_BSE = _read_and_next(embedding_UE, batch["teacher_input_ids"], batch["teacher_labels"])
        key_BSE = key_BSE / key_BSE.std().clamp_min(1e-6)
        states_BSE = view.teacher_output.states_BSD.to(self.value.weight.dtype)
        next_BSE = embedding_UE[batch["teacher_labels"].clamp_min(0)]
        value_BSD = self.value(_unit_scale(states_BSE) + _unit_scale(next_BSE))
        scores_BTS = query_BTE @ key_BSE.transpose(1, 2) / math.sqrt(query_BTE.shape[-1])
        is_padding_BS = batch["teacher_attention_mask"] == 0
        weights_BTS = scores_BTS.masked_fill(is_padding_BS[:, None], -torch.inf).softmax(-1)
        hidden_ND = (weights_BTS @ value_BSD)[view.used_BT]
        assert student.weight_VD is not None
        return OutputLayer(hidden_ND, student.weight_VD.detach())

    def targets(
        self, logits_mV: Tensor, base: Targets | None, student_token_m: Tensor
    ) -> tuple[Targets, Tensor]:
        """See `Companion.targets`."""
        loss = torch.nn.functional.cross_entropy(logits_mV, student_token_m, reduction="sum")
        target_mV = logits_mV.detach().softmax(-1)
        is_right_m = target_mV.argmax(-1) == student_token_m
        return Targets(target_mV, torch.zeros_like(target_mV[:, 0]), is_right_m), loss


def build_companion(kind: str, teacher: Any, student: Any, num_student_rows: int, rank: int) -> Companion:
    """Return the companion of an aligner of kind `learned` or `attention` for two models."""
    teacher_width = teacher.get_input_embeddings().weight.shape[1]
    if kind == "learned":
        return LearnedCorrection(teacher_width, num_student_rows, rank)
    return CrossModelAttention(teacher_width, student.get_input_embeddings().weight.shape[1])


def _read_and_next(embedding: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the embeddings of the token read and of the one that follows, side by side."""
    return torch.cat([embedding[ids], embedding[labels.clamp_min(0)]], dim=-1)


def _unit_scale(values: Tensor) -> Tensor:
    return values / values.std().clamp_min(1e-6)
