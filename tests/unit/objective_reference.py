"""A real batch over a random pair of models, and slow references: loops, dictionaries, dense logits.

The references call nothing of the code under test.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distillation.aligners.build import build_schedule
from distillation.corpus.windows import WindowCollator
from distillation.tokenizers.pairs import PairEncoder

TEXTS = [
    "Return a new list containing all 1234 items.\n    >>> x = [1, 2]\n",
    "The naïve café — ValueError if it is closed.",
    "K-means clustering and vector quantization: code to be in UTC, states and different requests.\n",
    "ok",
]


def make_batch(models: Any, strategy: str, same: bool) -> Any:
    """Return (student, aligner, batch); `same` gives the student the teacher's tokenizer and architecture."""
    tokenizer = models["teacher_tokenizer" if same else "student_tokenizer"]
    student = copy.deepcopy(models["teacher" if same else "student"]).train().requires_grad_(True)
    if same:
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    aligner = build_schedule(
        [(strategy, 1.0)],
        models["teacher_tokenizer"],
        tokenizer,
        num_teacher_rows=models["teacher"].config.vocab_size,
        num_student_rows=student.config.vocab_size,
    )
    pairs = PairEncoder(models["teacher_tokenizer"], tokenizer).encode(TEXTS)
    assert None not in pairs
    return student, aligner, WindowCollator(0, 0, aligner)(pairs)


def dense_logits(models: Any, student: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T, V) of the student, with gradient, and (B, S, U) of the teacher."""
    student_BTV = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    with torch.no_grad():
        teacher_BSU = models["teacher"](
            input_ids=batch["teacher_input_ids"], attention_mask=batch["teacher_attention_mask"]
        ).logits
    return student_BTV, teacher_BSU


def walk_groups(
    teacher_ends: Sequence[int], student_ends: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """(teacher positions, student positions) of each group, by walking both lists of byte ends."""
    groups, i, j = [], 0, 0
    while i < len(teacher_ends) and j < len(student_ends):
        one, other = [i], [j]
        while teacher_ends[one[-1]] != student_ends[other[-1]]:
            if teacher_ends[one[-1]] < student_ends[other[-1]]:
                one.append(one[-1] + 1)
            else:
                other.append(other[-1] + 1)
            if one[-1] == len(teacher_ends) or other[-1] == len(student_ends):
                return groups
        groups.append((one, other))
        i, j = one[-1] + 1, other[-1] + 1
    return groups


def likelihood(
    logits: tuple[Tensor, Tensor],
    labels: tuple[list[list[int]], list[list[int]]],
    groups: list[list[tuple[list[int], list[int]]]],
    boundaries: tuple[set[int], set[int]],
    *,
    tau: float,
    debias: str,
    threshold: float,
) -> Tensor:
    """The loss of ALM summed over windows, one group and one token at a time.

    `logits` are of student and teacher, `labels` and `boundaries` of student and teacher too.
    """
    total = torch.zeros(())
    for window, members in enumerate(groups):
        student, teacher = (side[window].double().log_softmax(-1) for side in logits)
        boundary_s = [student[k, sorted(boundaries[0])].logsumexp(-1) for k in range(len(student))]
        boundary_t = [teacher[k, sorted(boundaries[1])].logsumexp(-1) for k in range(len(teacher))]
        if debias == "merge":
            merged, one, other = [], [], []
            for g, (rows, positions) in enumerate(members):
                one, other = one + rows, other + positions
                is_last = g + 1 == len(members)
                if is_last or boundary_t[members[g + 1][0][0]] > math.log(threshold):
                    merged.append((one, other))
                    one, other = [], []
            members = merged
        for g, (rows, positions) in enumerate(members):
            log_s = sum(student[k, labels[0][window][k]] for k in positions)
            log_t = sum(teacher[k, labels[1][window][k]] for k in rows)
            if debias == "product" and g + 1 < len(members):
                log_t = log_t + boundary_t[members[g + 1][0][0]]
                log_s = log_s + boundary_s[members[g + 1][1][0]]
            p, q = torch.exp(torch.as_tensor(log_t) / tau), torch.exp(log_s / tau)
            kl = p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())
            total = total + tau * len(positions) * kl
    return total


def gold_group(
    student: Tensor,
    teacher: Tensor,
    group: tuple[list[int], list[int]],
    labels: tuple[list[int], list[int]],
    matched: list[tuple[int, int]],
    beta: float,
) -> Tensor:
    """GOLD's loss of one group from probabilities (T, V) and (S, U), written out term by term."""
    rows, positions = group
    merged_s = student[positions[-1]]
    for k in positions[:-1]:
        merged_s = merged_s * student[k, labels[0][k]].clamp_min(1e-8)
    merged_t = teacher[rows[-1]]
    for k in rows[:-1]:
        merged_t = merged_t * teacher[k, labels[1][k]].clamp_min(1e-8)
    p = merged_t[[t for t, _ in matched]].clamp_min(1e-8)
    q = merged_s[[s for _, s in matched]].clamp_min(1e-8)
    middle = beta * p + (1 - beta) * q
    jsd = (beta * p * (p / middle).log() + (1 - beta) * q * (q / middle).log()).sum()
    if beta in (0.0, 1.0):
        jsd = (p * (p / q).log()).sum() if beta == 0.0 else (q * (q / p).log()).sum()
    theirs, ours = {t for t, _ in matched}, {s for _, s in matched}
    rest_t = merged_t[[t for t in range(len(merged_t)) if t not in theirs]]
    rest_s = merged_s[[s for s in range(len(merged_s)) if s not in ours]]
    rest = sorted_difference(rest_s, rest_t)
    weight = len(matched) / len(merged_t)
    return weight * jsd + (1 - weight) * rest


def sorted_difference(one: Tensor, other: Tensor) -> Tensor:
    """Sum of |a - b| over both lists sorted from large to small, the shorter one filled up with zeros."""
    first, second = (sorted(side.unbind(), key=Tensor.item, reverse=True) for side in (one, other))
    size = max(len(first), len(second))
    zero = torch.zeros((), dtype=one.dtype)
    lists = [torch.stack(side + [zero] * (size - len(side))) for side in (first, second)]
    return (lists[0] - lists[1]).abs().sum()
