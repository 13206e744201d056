"""Projection by re-encoding: the aligner `projection`.

Legend, at the end of names: N used positions, U teacher vocabulary, V student vocabulary, K non-zeros of W.

W (V, U) says in which teacher tokens the teacher's tokenizer would write a student token (X-Token):

- a token that both have: that token, weight 1; special tokens go by text, else by role;
- any other: the first 4 pieces of the teacher's own encoding of its bytes (where that is not exact, of
  bytes that are no text, the longest tokens from the left), with weights 0.9 x 0.1^i, made to sum to 1.

X-Token itself carries the *student's* probabilities over, p^ = W^T p_S, and compares in the teacher's
vocabulary. The interface here asks for a target over the student's, so the teacher's mass flows back
through the same weights: each teacher token shares its mass among the student tokens that are written
with it,

    q(s) = sum over t of p(t) W[s, t] / sum over s' of W[s', t].

Mass of teacher tokens that no student token is written with goes to the residual. So no mass is counted
twice, but a token also pays out to longer words that merely begin with it, or hold it further in, in
proportion to weights that know no context: that is the rule's weakness beside `prefix`, and it has
nothing to say inside a teacher token, where such positions have no target. A target is not corrected for a
student token that runs past the teacher's. X-Token also keeps the teacher's 8,192 best columns of a
microbatch only and averages chunks; here every column counts, and each position stands for itself.

Invariants: written mass + residual = 1; equal tokenizers give the teacher's softmax itself; no (V, U)
tensor exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.aligners.base import Aligner, Rows, Targets, finish
from distillation.tokenizers.pairs import EncodedPair
from distillation.tokenizers.prefix_tables import SortedTokens, longest_prefixes, sort_tokens
from distillation.tokenizers.reencoding import reencode
from distillation.tokenizers.spans import Alignment, align_spans
from distillation.tokenizers.token_bytes import TokenBytes
from distillation.tokenizers.vocabularies import Vocabularies, map_specials

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIECES = 4
"""Non-zeros in a row of W."""
FIRST_WEIGHT, DECAY = 0.9, 0.1
MAX_ENTRIES = 1 << 22
"""Entries of (N, K) that are in memory at a time: 16 MiB a float32 tensor."""


class ProjectionAligner(Aligner):
    """Shares each teacher token's mass among the student tokens that the teacher would write with it."""

    name = "projection"

    def align(self, pairs: Sequence[EncodedPair]) -> Alignment:
        """See `Aligner.align`; only positions at shared boundaries have a target."""
        spans = align_spans(pairs)
        is_boundary_BT = spans.num_emitted_BT == 0
        return Alignment(
            teacher_position_BT=np.where(is_boundary_BT, spans.teacher_position_BT, -1),
            num_emitted_BT=np.zeros_like(spans.num_emitted_BT),
            num_tail_BT=np.zeros_like(spans.num_tail_BT),
            is_one_to_one_BT=spans.is_one_to_one_BT,
        )

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """See `Aligner.targets`.

        Raises:
            ValueError: a position inside a teacher token.
        """
        import torch

        with torch.no_grad():
            if bool((rows.num_emitted_N > 0).any()):
                raise ValueError("projection has targets at shared boundaries only: rows are misaligned")
            teacher_token_K, share_K = self.tables["teacher_token"], self.tables["share"]
            log_probs_NU = teacher_log_probs_NU.detach()
            written_NV = share_K.new_zeros((len(rows), self.num_student_rows))
            step = max(1, MAX_ENTRIES // max(1, len(share_K)))
            for written, log_probs in zip(written_NV.split(step), log_probs_NU.split(step), strict=True):
                mass_NK = log_probs.index_select(1, teacher_token_K).float().exp_().mul_(share_K)
                written.index_add_(1, self.tables["student_token"], mass_NK)
            return finish(written_NV, 1.0 - written_NV.sum(dim=1), rows.student_token_N)


def build_projection_tables(vocabularies: Vocabularies) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tables of `ProjectionAligner` and facts about them.

    `student_token`, `teacher_token` (K,) are the places of W's non-zeros, `share` (K,) what each gets of its
    teacher token's mass.
    """
    num_teacher_rows, num_student_rows = vocabularies.num_teacher_rows, vocabularies.num_student_rows
    facts: dict[str, Any] = {}
    student: np.ndarray
    teacher: np.ndarray
    if vocabularies.identical:
        student = teacher = np.arange(min(num_teacher_rows, num_student_rows))
        weight = np.ones(len(student))
    else:
        parts = [_exact(vocabularies), _rewritten(vocabularies)]
        facts = {"num_exact_tokens": len(parts[0][0]), "num_rewritten_tokens": len(np.unique(parts[1][0]))}
        student, teacher, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    total_U = np.bincount(teacher, weights=weight, minlength=num_teacher_rows)
    order = np.lexsort((teacher, student))
    tables = {
        "student_token": student[order],
        "teacher_token": teacher[order],
        "share": (weight / total_U[teacher])[order].astype(np.float32),
    }
    num_unused = int(np.count_nonzero(total_U[vocabularies.sorted_teacher.ids] == 0))
    return tables, facts | {"num_weights": len(weight), "num_unused_teacher_tokens": num_unused}


def _exact(vocabularies: Vocabularies) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (student ids, teacher ids, weights) of tokens that both vocabularies have."""
    teacher, student = vocabularies.teacher.canonical_ids, vocabularies.student.canonical_ids
    pairs = [(student[token], teacher[token]) for token in student.keys() & teacher.keys()]
    specials = map_specials(vocabularies.teacher, vocabularies.student)
    pairs += [(student_id, teacher_id) for teacher_id, student_id in specials.items()]
    ids = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return ids[:, 0], ids[:, 1], np.ones(len(ids))


def _rewritten(vocabularies: Vocabularies) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (student ids, teacher ids, weights) of the student's other tokens."""
    teacher, student = vocabularies.teacher, vocabularies.student
    tokens = sort_tokens(
        {index: token for token, index in student.canonical_ids.items() if token not in teacher.canonical_ids}
    )
    own = reencode(tokens, teacher, vocabularies.teacher_tokenizer)
    pieces = np.full((len(tokens.ids), MAX_PIECES), -1, dtype=np.int64)
    for column in range(MAX_PIECES):
        has_piece = own.counts > column
        pieces[has_piece, column] = own.pieces[own.starts[has_piece] + column]
    others = tokens.ids[own.counts == 0].tolist()
    if others:
        # Sorted as they are among all, so the rows stay in step.
        pieces[own.counts == 0] = _longest_pieces(
            sort_tokens({index: student.table[index] or b"" for index in others}), teacher
        )
    rank, place = np.nonzero(pieces >= 0)
    weight = FIRST_WEIGHT * np.power(DECAY, place)
    weight /= np.bincount(rank, weights=weight, minlength=len(pieces))[rank]
    # A token that is written with one piece twice has one non-zero for it.
    num_rows = vocabularies.num_teacher_rows
    cell, inverse = np.unique(tokens.ids[rank] * num_rows + pieces[rank, place], return_inverse=True)
    return cell // num_rows, cell % num_rows, np.bincount(inverse, weights=weight, minlength=len(cell))


def _longest_pieces(tokens: SortedTokens, teacher: TokenBytes) -> np.ndarray:
    """Return the longest teacher tokens that write each token from the left, (num_tokens, 4); -1: none."""
    longest = longest_prefixes(
        tokens, sort_tokens({index: token for token, index in teacher.canonical_ids.items()})
    )
    pieces = np.full((len(tokens.ids), MAX_PIECES), -1, dtype=np.int64)
    place, end = tokens.starts.copy(), tokens.starts + tokens.lengths
    ranks = np.arange(len(tokens.ids))
    for step in range(MAX_PIECES):
        piece = longest[place[ranks]]
        ranks, piece = ranks[piece >= 0], piece[piece >= 0]
        pieces[ranks, step] = piece
        place[ranks] += teacher.lengths[piece]
        ranks = ranks[place[ranks] < end[ranks]]
    return pieces
