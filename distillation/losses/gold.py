"""GOLD, a baseline: equal token strings by a Jensen-Shannon divergence, the rest sorted.

Legend, at the end of names: n positions of a chunk, N used positions, M teacher rows, G groups, g groups of a
chunk, m matched token strings, U teacher vocabulary, V student vocabulary.

A group of several tokens becomes one distribution by the chain rule: that of its last position times the
probabilities of the group's earlier real tokens, not renormalised (TRL's merge "bayesian"; its default,
"observed", reads rows one position late and is not built). With p the student's and t the teacher's:

    matched    JSD_b(t[m], p[m]) = b KL(t || c) + (1 - b) KL(p || c),   c = b t + (1 - b) p
    unmatched  sum_i | sort(p[not m])_i - sort(t[not m])_i |
    loss       = |m| / U x matched + (1 - |m| / U) x unmatched

where m are the strings that stand in both vocabularies letter by letter.

A group counts as many times as it has student tokens, so that every position weighs the same; TRL takes the
mean over the groups of each sample.

Invariant: equals the formula group by group.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distillation.losses.uld import sorted_difference

if TYPE_CHECKING:
    from distillation.kernels.batch import BatchView, Chunk

LEAST_PROBABILITY = 1e-8
"""As in TRL: stands for less in a logarithm and in a merge."""
LEAST_LOG_PROB = math.log(LEAST_PROBABILITY)


def matched_tokens(
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    *,
    num_teacher_rows: int | None = None,
    num_student_rows: int | None = None,
) -> Tensor:
    """Return (2, m) int64: ids of the teacher and of the student whose vocabulary strings are equal.

    Tokens that a model of so many rows lacks are left out.
    """
    teacher, student = (
        {token: index for token, index in one.get_vocab().items() if num_rows is None or index < num_rows}
        for one, num_rows in ((teacher_tokenizer, num_teacher_rows), (student_tokenizer, num_student_rows))
    )
    pairs = sorted((index, student[token]) for token, index in teacher.items() if token in student)
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.contiguous()


class GoldTerm:
    """The term `gold` of one batch; chunks must end where groups do.

    Args:
        view: the batch.
        matched: of `matched_tokens`.
        beta: b.
        temperature: of both softmaxes.
    """

    def __init__(self, view: BatchView, matched: Tensor, beta: float, temperature: float) -> None:
        self.view, self.beta, self.temperature = view, beta, temperature
        device = view.labels_N.device
        self.matched = matched.to(device)
        self.is_unmatched_U = torch.ones(view.teacher.num_rows, dtype=torch.bool, device=device)
        self.is_unmatched_V = torch.ones(view.student.num_rows, dtype=torch.bool, device=device)
        self.is_unmatched_U[self.matched[0]] = False
        self.is_unmatched_V[self.matched[1]] = False
        self._find_teacher_rows()

    def _find_teacher_rows(self) -> None:
        """Find the last teacher row of each group and the probability of the tokens before it."""
        view = self.view
        labels_M, group_M = view.teacher_labels_M, view.group_of("teacher_group")
        self.last_row_G = _last_of_group(group_M, len(view.batch["group"]) * view.num_groups)
        real_M = labels_M >= 0
        log_prob_M = torch.zeros(len(labels_M), device=labels_M.device)
        log_prob_M[real_M] = view.teacher.token_log_probs(
            view.teacher_states_MD[real_M], labels_M[real_M], self.temperature
        ).clamp_min(LEAST_LOG_PROB)
        log_prob_M[self.last_row_G[self.last_row_G >= 0]] = 0.0
        self.earlier_G = view.sum_by_group(group_M, log_prob_M)

    def __call__(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return (loss, student tokens of the groups), summed."""
        group_n = self.view.group_N[chunk.positions]
        index_n = (group_n >= 0).nonzero().squeeze(1)
        groups_g, local = group_n[index_n].unique(return_inverse=True)
        if not len(groups_g):
            zero = chunk.logits_nV.sum() * 0.0
            return zero, zero.detach()
        last_g = index_n[_last_of_group(local, len(groups_g))]
        log_probs_nV = chunk.log_probs(self.temperature)
        own_n = log_probs_nV.gather(1, chunk.labels_n[:, None]).squeeze(1)
        own_n = own_n.clamp_min(LEAST_LOG_PROB)
        is_last_n = torch.zeros_like(own_n, dtype=torch.bool).index_fill(0, last_g, True)
        earlier_n = torch.where(is_last_n, 0.0, own_n)[index_n]
        earlier_g = own_n.new_zeros(len(groups_g)).index_add(0, local, earlier_n)
        student_gV = (log_probs_nV[last_g] + earlier_g[:, None]).exp()
        teacher_gU = self._teacher(groups_g)
        size_g = torch.bincount(local, minlength=len(groups_g))
        loss = (self.group_loss(student_gV, teacher_gU) * size_g).sum()
        return loss, size_g.sum().to(loss.dtype)

    @torch.no_grad()
    def _teacher(self, groups_g: Tensor) -> Tensor:
        states_gD = self.view.teacher_states_MD[self.last_row_G[groups_g]]
        log_probs_gU = self.view.teacher.log_probs(states_gD, self.temperature)
        return (log_probs_gU + self.earlier_G[groups_g][:, None]).exp()

    def group_loss(self, student_gV: Tensor, teacher_gU: Tensor) -> Tensor:
        """Return the loss of each group from both merged distributions, (g,)."""
        weight = self.matched.shape[1] / teacher_gU.shape[1]
        matched_g = _generalised_jensen_shannon(
            student_gV[:, self.matched[1]], teacher_gU[:, self.matched[0]], self.beta
        )
        unmatched_g = sorted_difference(
            student_gV[:, self.is_unmatched_V], teacher_gU[:, self.is_unmatched_U]
        )
        return weight * matched_g + (1 - weight) * unmatched_g


def _generalised_jensen_shannon(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    student, teacher = student.clamp_min(LEAST_PROBABILITY), teacher.clamp_min(LEAST_PROBABILITY)
    log_student, log_teacher = student.log(), teacher.log()
    if beta in (0.0, 1.0):
        one, other = (teacher, student) if beta == 0.0 else (student, teacher)
        return (one * (one.log() - other.log())).sum(-1)
    log_middle = (beta * teacher + (1 - beta) * student).log()
    to_teacher = (teacher * (log_teacher - log_middle)).sum(-1)
    to_student = (student * (log_student - log_middle)).sum(-1)
    return beta * to_teacher + (1 - beta) * to_student


def _last_of_group(group: Tensor, num_groups: int) -> Tensor:
    """Return (num_groups,): index of the last entry of each group; -1 for a group without any."""
    place = torch.arange(len(group), device=group.device)
    index = torch.where(group >= 0, group, num_groups)
    last = torch.full((num_groups + 1,), -1, dtype=torch.int64, device=group.device)
    return last.scatter_reduce(0, index, place, "amax")[:-1]
