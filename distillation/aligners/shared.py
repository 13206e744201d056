"""Strictly shared vocabulary: the aligner `shared`.

Legend, at the end of names: N used positions, U teacher vocabulary, V student vocabulary.

Only positions whose teacher and student tokens begin and end at the same bytes (1:1 groups) learn from
the teacher. There both distributions are restricted to the tokens that both vocabularies have, and
renormalised:

    q(s) = p(t(s)) / sum over shared s' of p(t(s')),  t(s) = the teacher's token with the bytes of s.

Sound, because both condition on the same bytes and rank the same continuations; simple; and blind to the
rest (arXiv 2610.08448).

Invariants: equal tokenizers give the teacher's softmax itself; no mass outside `student_support_V`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.aligners.base import Aligner, Rows, Targets, with_fallback
from distillation.tokenizers.pairs import EncodedPair
from distillation.tokenizers.spans import Alignment, align_spans
from distillation.tokenizers.vocabularies import Vocabularies, map_specials

if TYPE_CHECKING:
    from torch import Tensor


class SharedAligner(Aligner):
    """Compares both models on the token strings that both have, where their tokens coincide."""

    name = "shared"

    def align(self, pairs: Sequence[EncodedPair]) -> Alignment:
        """See `Aligner.align`; only positions of 1:1 groups have a target."""
        spans = align_spans(pairs)
        one_to_one_BT = spans.is_one_to_one_BT
        return Alignment(
            teacher_position_BT=np.where(one_to_one_BT, spans.teacher_position_BT, -1),
            num_emitted_BT=np.zeros_like(spans.num_emitted_BT),
            num_tail_BT=np.zeros_like(spans.num_tail_BT),
            is_one_to_one_BT=one_to_one_BT,
        )

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """See `Aligner.targets`."""
        import torch

        with torch.no_grad():
            support_V = self.tables["student_support"]
            log_probs_NV = teacher_log_probs_NU.detach().index_select(1, self.tables["teacher_of_student"])
            log_probs_NV = log_probs_NV.float().masked_fill_(~support_V, -torch.inf)
            log_mass_N = log_probs_NV.logsumexp(dim=1)
            mass_N = log_mass_N.exp()
            # In log space, because the shared tokens may hold very little of the mass; not by softmax, whose
            # sum over a large vocabulary is off by several 1e-6 on a processor.
            least = torch.finfo(log_mass_N.dtype).min
            probabilities_NV = log_probs_NV.sub_(log_mass_N.clamp_min(least).unsqueeze(1)).exp_()
            return with_fallback(probabilities_NV, mass_N, 1.0 - mass_N, rows.student_token_N)


def build_shared_tables(vocabularies: Vocabularies) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tables of `SharedAligner` and facts about them; special tokens count by their text."""
    teacher_of_student = np.full(vocabularies.num_student_rows, -1, dtype=np.int64)
    if vocabularies.identical:
        both = min(vocabularies.num_teacher_rows, vocabularies.num_student_rows)
        teacher_of_student[:both] = np.arange(both)
    else:
        teacher, student = vocabularies.teacher, vocabularies.student
        for token, student_id in student.canonical_ids.items():
            teacher_of_student[student_id] = teacher.canonical_ids.get(token, -1)
        for teacher_id, student_id in map_specials(teacher, student, by_role=False).items():
            teacher_of_student[student_id] = teacher_id
    support = teacher_of_student >= 0
    tables = {"teacher_of_student": np.maximum(teacher_of_student, 0), "student_support": support}
    return tables, {"num_shared_tokens": int(support.sum())}
