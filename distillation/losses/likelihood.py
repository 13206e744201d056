"""Approximate likelihood matching: one number a group between shared boundaries.

Legend, at the end of names: N used positions, n positions of a chunk, M teacher rows, G groups, U teacher
vocabulary, V student vocabulary.

Both models give a group's bytes a probability, whatever tokens they spell it with (ALM, arXiv 2503.20083):

    l = sum of log p(token) over the group's tokens,   p~ = exp(l / tau),   tau = 100
    loss = tau KL(Bernoulli(p~_T) || Bernoulli(p~_S)) x student tokens of the group

The paper's binary cross-entropy differs by the teacher's own entropy, a constant. The factor tau is ours:
without it the gradient is about 1 / tau of cross-entropy's, and a weight would mean something else for every
temperature.

Debiasing. A tokenizer that ends a token at a place says more than the bytes before it: that no longer token
fits. `product` multiplies a group by the probability that the next token begins a new word (white space or a
special token), on both sides; `merge` joins groups until the teacher gives that at least a threshold.

The loss of a group is no sum over its tokens. So the sums are formed first, without a graph, and the loss is
differentiated by them; then each position contributes its own log-probability times that derivative, in
whatever chunk it falls. Value and gradient are exact.

Invariant: equals the formula group by group; the gradient equals finite differences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.config import LikelihoodSettings
from distillation.kernels.chunked import even_chunks

if TYPE_CHECKING:
    from distillation.kernels.batch import BatchView, Chunk

LARGEST_LOG_PROB = -1e-4
"""A group that is all but certain: 1 - p~ must not become zero."""


class LikelihoodTerm:
    """The term `likelihood` of one batch.

    Args:
        view: the batch.
        settings: tau and debiasing.
        boundaries: bool (U,), (V,): the tokens that begin a new word.
        chunk_size: positions whose logits exist at a time.
    """

    def __init__(
        self,
        view: BatchView,
        settings: LikelihoodSettings,
        boundaries: tuple[Tensor, Tensor],
        chunk_size: int,
    ) -> None:
        self.boundary_V = boundaries[1]
        token_N, boundary_N = _student_log_probs(view, self.boundary_V, chunk_size)
        token_M, boundary_M = _teacher_log_probs(view, boundaries[0])
        teacher_group_M, group_N = view.group_of("teacher_group"), view.group_N
        has_next_G, first_N, first_M = _followed_groups(view, teacher_group_M)
        teacher_next_G = _of_next_group(view.sum_by_group(first_M, boundary_M), has_next_G)
        if settings.debias == "merge":
            ends_G = ~has_next_G | (teacher_next_G.exp() > settings.boundary_threshold)
            group_N, teacher_group_M = _merged(view, ends_G, group_N), _merged(view, ends_G, teacher_group_M)
        teacher_G = view.sum_by_group(teacher_group_M, token_M)
        student_G = view.sum_by_group(group_N, token_N)
        is_product = settings.debias == "product"
        if is_product:
            teacher_G = teacher_G + teacher_next_G
            student_G = student_G + _of_next_group(view.sum_by_group(first_N, boundary_N), has_next_G)
        self.num_tokens_G = view.sum_by_group(group_N, torch.ones_like(token_N))
        self.value, derivative_G = _loss_and_derivative(
            teacher_G, student_G, self.num_tokens_G, settings.temperature
        )
        self.token_N, self.boundary_N = token_N, boundary_N
        self.token_factor_N = _spread(derivative_G, group_N)
        # The boundary's probability stands at the first position of the *next* group.
        before_N = torch.where(first_N > 0, first_N - 1, -1)
        followed_N = _spread(has_next_G.float(), before_N)
        self.boundary_factor_N = _spread(derivative_G, before_N) * followed_N * float(is_product)

    def __call__(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return (loss of the chunk's positions, student tokens of its groups), summed."""
        positions = chunk.positions
        log_probs_nV = chunk.log_probs()
        token_n = -chunk.cross_entropy_n
        linear = (self.token_factor_N[positions] * token_n).sum()
        if bool(self.boundary_factor_N[positions].any()):
            boundary_n = log_probs_nV[:, self.boundary_V].logsumexp(1)
            linear = linear + (self.boundary_factor_N[positions] * boundary_n).sum()
        # The value is counted once, with the first chunk; every chunk has its own share of the gradient.
        value = self.value if positions.start == 0 else torch.zeros_like(self.value)
        count = self.num_tokens_G.sum() if positions.start == 0 else torch.zeros_like(value)
        return linear - linear.detach() + value, count


def group_loss(teacher_G: Tensor, student_G: Tensor, temperature: float) -> Tensor:
    """Return the loss of each group from both log-probabilities, (G,)."""
    teacher_G = teacher_G.clamp_max(LARGEST_LOG_PROB) / temperature
    student_G = student_G.clamp_max(LARGEST_LOG_PROB) / temperature
    # log(1 - p~), exact for p~ near 1, where nearly all groups are.
    teacher_other_G, student_other_G = (torch.log(-torch.expm1(one)) for one in (teacher_G, student_G))
    same_G = teacher_G.exp() * (teacher_G - student_G)
    return temperature * (same_G - torch.expm1(teacher_G) * (teacher_other_G - student_other_G))


def _loss_and_derivative(
    teacher_G: Tensor, student_G: Tensor, num_tokens_G: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the summed loss and its derivative by the student's log-probability of each group."""
    with torch.enable_grad():
        leaf_G = student_G.detach().requires_grad_()
        loss = (group_loss(teacher_G, leaf_G, temperature) * num_tokens_G).sum()
        (derivative_G,) = torch.autograd.grad(loss, leaf_G)
    return loss.detach(), derivative_G


@torch.no_grad()
def _student_log_probs(view: BatchView, boundary_V: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Return float32 (N,) twice: of the text's own tokens, and that the token begins a new word."""
    tokens, boundaries = [], []
    layer = view.layer.in_compute_format()
    for chunk in even_chunks(len(view.labels_N), chunk_size):
        log_probs_nV = layer.logits(chunk).log_softmax(-1)
        tokens.append(log_probs_nV.gather(1, view.labels_N[chunk][:, None]).squeeze(1))
        boundaries.append(log_probs_nV[:, boundary_V].logsumexp(1))
    return torch.cat(tokens), torch.cat(boundaries)


@torch.no_grad()
def _teacher_log_probs(view: BatchView, boundary_U: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of the teacher's rows, (M,); 0 for padding."""
    labels_M = view.teacher_labels_M
    real_M = labels_M >= 0
    states = view.teacher_states_MD[real_M]
    both_M2 = torch.zeros(len(labels_M), 2, device=labels_M.device)
    both_M2[real_M] = view.teacher.token_and_set_log_probs(states, labels_M[real_M], boundary_U)
    return both_M2[:, 0], both_M2[:, 1]


def _followed_groups(view: BatchView, teacher_group_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which groups are directly followed by another one, and where groups begin.

    Returns:
        bool (G,): another group of the window follows, without a token of no group between them;
        (N,), (M,): group of the entries at which a group begins, -1 for all others.
    """
    group_BT = view.group_of("group").view_as(view.used_BT)
    window_rows = view.batch["teacher_labels"].shape[1]
    group_BS = teacher_group_M.view(-1, window_rows)
    first_BT, adjacent_BT = _begins(group_BT)
    first_BS, _ = _begins(group_BS)
    has_next_G = view.sum_by_group(torch.where(adjacent_BT, group_BT - 1, -1).flatten(),
                                   torch.ones_like(group_BT).flatten()) > 0  # fmt: skip
    used_first_N = torch.where(first_BT, group_BT, -1)[view.used_BT]
    return has_next_G, used_first_N, torch.where(first_BS, group_BS, -1).flatten()


def _begins(group: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a group begins, and where it begins right after the one before, bool like `group`."""
    before = torch.cat([torch.full_like(group[:, :1], -2), group[:, :-1]], dim=1)
    first = (group >= 0) & (group != before)
    return first, first & (group == before + 1) & (before >= 0)


def _of_next_group(values_G: Tensor, has_next_G: Tensor) -> Tensor:
    """Return for each group the value of the one that follows it; 0 where none does."""
    following_G = torch.cat([values_G[1:], values_G.new_zeros(1)]) if len(values_G) else values_G
    return torch.where(has_next_G, following_G, 0.0)


def _merged(view: BatchView, ends_G: Tensor, group: Tensor) -> Tensor:
    """Return `group` with every group joined to those after it up to one that ends."""
    ends_BG = ends_G.view(-1, view.num_groups).long()
    merged_BG = ends_BG.cumsum(1) - ends_BG
    merged_BG = merged_BG + torch.arange(len(merged_BG), device=merged_BG.device)[:, None] * view.num_groups
    return torch.where(group >= 0, merged_BG.flatten()[group.clamp_min(0)], -1)


def _spread(values_G: Tensor, group: Tensor) -> Tensor:
    """Return the value of each entry's group; 0 for -1."""
    if not len(values_G):
        return torch.zeros(len(group), device=group.device)
    return torch.where(group >= 0, values_G[group.clamp_min(0)], 0.0)
