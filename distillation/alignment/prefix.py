"""Mass-conserving byte-prefix marginalisation: the aligner `prefix`.

Legend, at the end of names: N used positions, U teacher vocabulary, V student vocabulary, R entries of
ranges.

Let r be the bytes of the current teacher token that the student has already emitted. C_r are the
teacher's tokens whose bytes start with r and go on (all tokens if r is empty). Each t in C_r sends p(t) /
sum over C_r of p to phi(bytes(t) after r), the student's token that comes first in writing those bytes:

- r empty: the first token of the student's *own encoding* of bytes(t), else the longest that is a prefix;
- r not empty: the longest student token that is a prefix of what is left.

Special tokens go to the student's token of the same text, else of the same role. What the student cannot
write goes to a residual, which is reported.

phi does not see the text that follows, and the student's tokenizer does: it may run past the teacher's
real token t', or cut it elsewhere (most of all white space, where `\\n\\n` alone is one token and before
a word is two). So the chain value p(t' | C_r) x p(tail) is moved from phi(t') to the student's real
token, else the target would contradict the text. It is a lower bound of that token's probability, because
other teacher tokens may spell the same bytes. With it a teacher that is certain of the text asks for the
student's own tokens.

Sorted by bytes, C_r is one range of ranks, so the tables are: order, lo, hi, phi. Rule after BPM (arXiv
2607.22334).

Invariants: written mass + residual = 1; equal tokenizers give the teacher's softmax itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.alignment.base import Aligner, Rows, Targets, finish
from distillation.alignment.reencoding import reencode
from distillation.alignment.tables import longest_prefixes, offsets_by_id, prefix_ranges
from distillation.alignment.vocabularies import Vocabularies, map_specials

if TYPE_CHECKING:
    from torch import Tensor

MAX_ENTRIES = 1 << 22
"""Entries of ranges, or of rows of the teacher, that are in memory at a time: 16 MiB a float32 tensor."""


class PrefixAligner(Aligner):
    """Marginalises the teacher's distribution over the byte prefixes that the student's tokens spell."""

    name = "prefix"

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """See `Aligner.targets`.

        Raises:
            ValueError: a position claims to be further inside its teacher token than that has bytes.
        """
        import torch

        with torch.no_grad():
            log_probs_NU = teacher_log_probs_NU.detach().float()
            self._check(rows)
            num_rows, residual_column = len(rows), self.num_student_rows
            # One more column than V: the residual bucket.
            mass = log_probs_NU.new_zeros((num_rows, residual_column + 1))
            log_total_N = log_probs_NU.new_zeros(num_rows)
            inside = rows.num_emitted_N > 0
            if not bool(inside.all()):
                self._write_boundaries(mass, log_probs_NU)
                mass[inside] = 0.0
            self._write_ranges(mass, log_total_N, log_probs_NU, inside.nonzero().squeeze(1), rows)
            self._move_chain(mass, log_total_N, log_probs_NU, rows)
            return finish(mass[:, :residual_column], mass[:, residual_column], rows.student_token_N)

    def _check(self, rows: Rows) -> None:
        token_N = rows.teacher_token_N.long()
        if bool(
            (rows.num_emitted_N > 0).logical_and(rows.num_emitted_N >= self.tables["lengths"][token_N]).any()
        ):
            raise ValueError("num_emitted is not less than the teacher token's bytes: rows are misaligned")

    def _write_boundaries(self, mass: Tensor, log_probs_NU: Tensor) -> None:
        """Write all rows as at shared boundaries, where C_r is the whole vocabulary.

        Most rows are at one, and copying those apart would cost more than writing a few in vain.
        """
        first_token_U = self.tables["first_token"]
        step = max(1, MAX_ENTRIES // log_probs_NU.shape[1])
        for piece, log_probs in zip(mass.split(step), log_probs_NU.split(step), strict=True):
            piece.scatter_add_(1, first_token_U.expand(len(piece), -1), log_probs.exp())

    def _write_ranges(
        self, mass: Tensor, log_total_N: Tensor, log_probs_NU: Tensor, index: Tensor, rows: Rows
    ) -> None:
        """Rows inside a teacher token: C_r is a range of ranks, a different one for each row."""
        import torch

        if not len(index):
            return
        emitted = rows.num_emitted_N[index].long()
        place = self.tables["offsets"][rows.teacher_token_N[index].long()] + emitted
        lo, hi = self.tables["range_lo"][place].long(), self.tables["range_hi"][place].long()
        for begin, end in _chunks((hi - lo).cumsum(0).tolist()):
            size = hi[begin:end] - lo[begin:end]
            row_R = torch.repeat_interleave(torch.arange(end - begin, device=size.device), size)
            first_R = (size.cumsum(0) - size)[row_R]
            rank_R = torch.arange(len(row_R), device=size.device) - first_R + lo[begin:end][row_R]
            token_R = self.tables["order"][rank_R].long()
            value_R = log_probs_NU[index[begin:end][row_R], token_R]
            top = value_R.new_full((end - begin,), -torch.inf)
            top = top.scatter_reduce(0, row_R, value_R, "amax").clamp_min(torch.finfo(value_R.dtype).min)
            share_R = (value_R - top[row_R]).exp()
            total = torch.zeros_like(top).index_add_(0, row_R, share_R)
            log_total_N[index[begin:end]] = top + total.log()
            share_R /= total.clamp_min(torch.finfo(total.dtype).tiny)[row_R]
            column_R = self._column(token_R, emitted[begin:end][row_R])
            flat_R = index[begin:end][row_R] * mass.shape[1] + column_R
            mass.view(-1).index_add_(0, flat_R, share_R)

    def _move_chain(self, mass: Tensor, log_total_N: Tensor, log_probs_NU: Tensor, rows: Rows) -> None:
        """Move the value of the realised chain, p(t' | C_r) x p(tail), to the student's real token."""
        import torch

        index_N = torch.arange(len(rows), device=mass.device)
        teacher_token_N = rows.teacher_token_N.long()
        tail_N = torch.where(rows.num_tail_N > 0, rows.tail_log_prob_N.float(), 0.0)
        chain_N = log_probs_NU[index_N, teacher_token_N] - log_total_N + tail_N
        source_N = self._column(teacher_token_N, rows.num_emitted_N.long())
        available_N = mass[index_N, source_N]
        moved_N = chain_N.exp().nan_to_num(0.0).clamp_min(0.0).minimum(available_N)
        mass[index_N, source_N] = available_N - moved_N
        mass[index_N, rows.student_token_N.long()] += moved_N

    def _column(self, token: Tensor, emitted: Tensor) -> Tensor:
        """Return the column that what is left of `token` after `emitted` bytes is written to."""
        import torch

        phi = self.tables["phi"][self.tables["offsets"][token] + emitted].long()
        column = torch.where(phi < 0, self.num_student_rows, phi)
        return torch.where(emitted == 0, self.tables["first_token"][token], column)


def _chunks(cumulative: list[int]) -> Iterator[tuple[int, int]]:
    """Cut rows into runs whose ranges have at most MAX_ENTRIES entries together; at least one row each."""
    begin, base = 0, 0
    for end in range(1, len(cumulative) + 1):
        if end == len(cumulative) or cumulative[end] - base > MAX_ENTRIES:
            yield begin, end
            begin, base = end, cumulative[end - 1]


def build_prefix_tables(vocabularies: Vocabularies) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tables of `PrefixAligner` and facts about them."""
    teacher = vocabularies.teacher
    num_teacher_rows, num_student_rows = vocabularies.num_teacher_rows, vocabularies.num_student_rows
    specials = map_specials(teacher, vocabularies.student)
    tokens = vocabularies.sorted_teacher
    range_lo, range_hi = prefix_ranges(tokens)
    phi = longest_prefixes(tokens, vocabularies.sorted_student)
    first_token = np.full(num_teacher_rows, -1, dtype=np.int64)
    num_own = len(tokens.ids)
    if vocabularies.identical:
        both = min(num_teacher_rows, num_student_rows)
        first_token[:both] = np.arange(both)
        phi[tokens.starts] = tokens.ids
    else:
        own = reencode(tokens, vocabularies.student, vocabularies.student_tokenizer).first
        num_own = int(np.count_nonzero(own >= 0))
        phi[tokens.starts] = np.where(own >= 0, own, phi[tokens.starts])
        first_token[tokens.ids] = phi[tokens.starts]
        first_token[list(specials)] = list(specials.values())
    lengths = np.zeros(num_teacher_rows, dtype=np.int32)
    lengths[: len(teacher.lengths)] = teacher.lengths
    details = {
        "special_tokens": {str(key): value for key, value in sorted(specials.items())},
        "num_own_encodings": num_own,
        "num_longest_prefixes": len(tokens.ids) - num_own,
        "num_unwritable_tokens": int(np.count_nonzero(first_token[tokens.ids] < 0)),
        "num_places": len(phi),
        "num_unwritable_places": int(np.count_nonzero(phi < 0)),
    }
    tables = {
        # The residual bucket is the column after the last, so that writing needs no mask.
        "first_token": np.where(first_token < 0, num_student_rows, first_token),
        "offsets": offsets_by_id(tokens, num_teacher_rows),
        "lengths": lengths,
        "order": tokens.ids.astype(np.int32),
        "range_lo": range_lo,
        "range_hi": range_hi,
        "phi": phi,
    }
    return tables, details
