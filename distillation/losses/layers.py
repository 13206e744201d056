"""Inner states of both models over the same bytes: the terms `hidden` and `attention`.

Legend, at the end of names: B windows, T student positions, S teacher positions, P positions of either, G
groups of a window, C columns (the start and the groups), D width of the student, E width of the teacher.

Tokens of two tokenizers cannot be compared state by state, groups between shared boundaries can. Layers are
matched by depth: the student's layer l of L with the teacher's round(l x L_T / L).

- hidden: the states from which a group's tokens are predicted, averaged over the group; the student's are
  brought to the teacher's width by a learnt projection where widths differ; both are standardised, and the
  loss is their mean squared difference. At the group's first token both models have read the same bytes.
- attention: maps averaged over heads; a query is a group (mean over the rows that predict it), a key is what
  the row has read (the start token, or a group: sum over its tokens), so that each row of the pooled map
  still sums to 1. The loss is KL(teacher || student) of the rows. (After MiniLM, arXiv 2002.10957, with maps
  pooled over spans in place of equal tokens.) Maps exist under eager attention alone.

Both count a group once for each of its student tokens. Positions without a label take no part.

Invariants: zero for equal models; rows of pooled maps sum to 1; equals the loop over groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distillation.kernels.batch import standardised

if TYPE_CHECKING:
    from distillation.kernels.batch import BatchView


def matched_layers(num_student: int, num_teacher: int, count: int) -> list[tuple[int, int]]:
    """Return (student layer, teacher layer) pairs, counted from 1, evenly spread and with the last ones."""
    count = min(count, num_student)
    chosen = sorted({round(num_student * (index + 1) / count) for index in range(count)})
    return [(layer, max(1, round(layer * num_teacher / num_student))) for layer in chosen]


class HiddenProjections(nn.Module):
    """Brings the student's states to the teacher's width, one projection a layer; none for equal widths."""

    def __init__(self, student_width: int, teacher_width: int, num_layers: int) -> None:
        super().__init__()
        same = student_width == teacher_width
        self.layers = nn.ModuleList(
            nn.Identity() if same else nn.Linear(student_width, teacher_width, bias=False)
            for _ in range(num_layers)
        )


def build_projections(teacher: Any, student: Any, num_layers: int) -> HiddenProjections:
    """Return the projections between two models, for as many layers as `matched_layers` gives."""
    ours, theirs = (model.config.get_text_config() for model in (student, teacher))
    pairs = matched_layers(ours.num_hidden_layers, theirs.num_hidden_layers, num_layers)
    return HiddenProjections(ours.hidden_size, theirs.hidden_size, len(pairs))


def hidden_loss(view: BatchView, projections: HiddenProjections, num_layers: int) -> tuple[Tensor, Tensor]:
    """Return (loss summed over groups, student tokens of the groups)."""
    student = view.student.hidden_states
    teacher = view.teacher_output.hidden_states
    student_mean, teacher_mean, weight_BG = _group_means(view)
    total = weight_BG.new_zeros(())
    pairs = matched_layers(len(student) - 1, len(teacher) - 1, num_layers)
    for (one, other), projection in zip(pairs, projections.layers, strict=True):
        student_BGE = standardised(projection(student_mean @ student[one].float()))
        teacher_BGE = standardised(teacher_mean @ teacher[other].float())
        difference_BG = (student_BGE - teacher_BGE).square().mean(-1)
        total = total + (weight_BG * difference_BG).sum() / len(pairs)
    return total, weight_BG.sum()


def attention_loss(view: BatchView, num_layers: int) -> tuple[Tensor, Tensor]:
    """Return (loss summed over groups, student tokens of the groups)."""
    student, teacher = view.student.attentions, view.teacher_output.attentions
    student_mean, teacher_mean, weight_BG = _group_means(view)
    student_read = _columns(view.batch["group"], view.num_groups)
    teacher_read = _columns(view.batch["teacher_group"], view.num_groups)
    total = weight_BG.new_zeros(())
    pairs = matched_layers(len(student), len(teacher), num_layers)
    for one, other in pairs:
        student_BGC = student_mean @ student[one - 1].float().mean(1) @ student_read
        teacher_BGC = teacher_mean @ teacher[other - 1].float().mean(1) @ teacher_read
        divergence_BG = _row_divergence(teacher_BGC, student_BGC)
        total = total + (weight_BG * divergence_BG).sum() / len(pairs)
    return total, weight_BG.sum()


def _group_means(view: BatchView) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices that average over a group's rows, (B, G, T) and (B, G, S), and the weights (B, G).

    A group's weight is the number of its student tokens; 0 where not all of them have a label.
    """
    counted_BT = torch.full_like(view.batch["group"], -1)
    counted_BT[view.used_BT] = torch.where(view.group_N >= 0, view.group_N % max(view.num_groups, 1), -1)
    student_BGT = _membership(counted_BT, view.num_groups)
    teacher_BGS = _membership(view.batch["teacher_group"], view.num_groups)
    weight_BG = student_BGT.sum(-1)
    return _normalised(student_BGT), _normalised(teacher_BGS), weight_BG


def _membership(group_BP: Tensor, num_groups: int) -> Tensor:
    """Return float32 (B, G, P): 1 where a position belongs to a group."""
    number_G = torch.arange(num_groups, device=group_BP.device)
    return (group_BP[:, None, :] == number_G[None, :, None]).float()


def _normalised(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(-1, keepdim=True).clamp_min(1.0)


def _columns(group_BP: Tensor, num_groups: int) -> Tensor:
    """Return float32 (B, P, C): what each row of inputs has read: the start token, then the group's tokens.

    Row j reads token j - 1, and row 0 the start token. Tokens of no group (scaffolding of a chat) count with
    the start, so that no attention is lost.
    """
    read_BP = torch.cat([torch.full_like(group_BP[:, :1], -1), group_BP[:, :-1]], dim=1) + 1
    return torch.nn.functional.one_hot(read_BP.clamp_min(0), num_groups + 1).float()


def _row_divergence(teacher_BGC: Tensor, student_BGC: Tensor) -> Tensor:
    least = 1e-8
    log_teacher, log_student = teacher_BGC.clamp_min(least).log(), student_BGC.clamp_min(least).log()
    return (teacher_BGC * (log_teacher - log_student)).sum(-1)
