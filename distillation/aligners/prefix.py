"""Mass-conserving byte-prefix marginalisation: the aligner `prefix`.

Legend, at the end of names: N used positions, i those inside of a teacher token, R rows of the teacher, I
those with a position inside, U teacher vocabulary, u columns of a tile, V student vocabulary, E entries of
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

from distillation.aligners.base import Aligner, Rows, Targets, finish
from distillation.kernels.online_softmax import ChunkMemory, DenseRows, OnlineSoftmax, TeacherRows, logits_at
from distillation.tokenizers.prefix_tables import longest_prefixes, offsets_by_id, prefix_ranges
from distillation.tokenizers.reencoding import reencode
from distillation.tokenizers.vocabularies import Vocabularies, map_specials

if TYPE_CHECKING:
    from torch import Tensor
MAX_ENTRIES = 1 << 20
"""Entries of ranges that are in memory at a time: 4 MiB a float32 tensor, some 60 MiB with their places."""


class PrefixAligner(Aligner):
    """Marginalises the teacher's distribution over the byte prefixes that the student's tokens spell."""

    name = "prefix"

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """See `Aligner.targets`.

        Raises:
            ValueError: a position claims to be further inside its teacher token than that has bytes.
        """
        import torch

        own_N = torch.arange(len(rows), device=teacher_log_probs_NU.device)
        return self.targets_of(DenseRows(teacher_log_probs_NU.detach()), own_N, rows)

    def targets_of(
        self, teacher: TeacherRows, row_N: Tensor, rows: Rows, memory: ChunkMemory | None = None
    ) -> Targets:
        """See `Aligner.targets_of`.

        Raises:
            ValueError: a position claims to be further inside its teacher token than that has bytes.
        """
        import torch

        with torch.no_grad():
            self._check(rows)
            if not len(rows):
                return self._nothing(row_N)
            memory = memory or ChunkMemory()
            inside = _Inside(rows, row_N, teacher, memory)
            # One more row than V: the residual bucket.
            mass_VN = memory.targets.empty(self.num_student_rows + 1, len(rows), row_N.device)
            softmax = OnlineSoftmax(careful=False)
            logit_N = self._read(teacher, row_N, rows, inside, softmax, mass_VN)
            if softmax.overflowed:
                softmax = OnlineSoftmax()
                logit_N = self._read(teacher, row_N, rows, inside, softmax, mass_VN)
            assert softmax.total_R is not None
            if not _in_place(row_N, inside.is_inside_N):
                mass_VN = mass_VN.index_select(1, row_N)
            # At a boundary the mass is in units of the softmax's sum, inside a token it adds up to 1.
            unit_N = softmax.total_R[row_N].masked_fill(inside.is_inside_N, 1.0)
            log_total_N = softmax.log_total_R[row_N]
            self._write_ranges(mass_VN, log_total_N, inside, rows)
            self._move_chain(mass_VN, logit_N - log_total_N, unit_N, rows)
            written_NV = mass_VN[: self.num_student_rows].T
            return finish(written_NV, mass_VN[self.num_student_rows], rows.student_token_N, unit_N)

    def _read(
        self,
        teacher: TeacherRows,
        row_N: Tensor,
        rows: Rows,
        inside: _Inside,
        softmax: OnlineSoftmax,
        mass_VN: Tensor,
    ) -> Tensor:
        """Write all rows as at shared boundaries, where C_r is the whole vocabulary: row i in column i.

        Returns:
            (N,): the logit of each position's own teacher token.
        """
        import torch

        logit_N = torch.zeros(len(rows), device=row_N.device)
        mass_VN.zero_()
        for columns, logits_uN in teacher.tiles(width=len(rows)):
            logits_uR = logits_uN[:, : teacher.num_rows]
            inside.keep(columns, logits_uR)
            logit_N = logits_at(columns, logits_uR, rows.teacher_token_N, row_N, logit_N)
            factor_R = softmax.weigh(logits_uR)
            if factor_R is not None:
                mass_VN[:, : teacher.num_rows] *= factor_R
            # Whole, though some columns are zero: between pieces of tensors it is several times slower.
            mass_VN.index_add_(0, self.tables["first_token"][columns], logits_uN)
        return logit_N

    def _nothing(self, row_N: Tensor) -> Targets:
        import torch

        none_N = torch.zeros(0, device=row_N.device)
        return Targets(none_N.new_zeros(0, self.num_student_rows), none_N, none_N > 0)

    def _check(self, rows: Rows) -> None:
        token_N = rows.teacher_token_N.long()
        if bool(
            (rows.num_emitted_N > 0).logical_and(rows.num_emitted_N >= self.tables["lengths"][token_N]).any()
        ):
            raise ValueError("num_emitted is not less than the teacher token's bytes: rows are misaligned")

    def _write_ranges(self, mass_VN: Tensor, log_total_N: Tensor, inside: _Inside, rows: Rows) -> None:
        """Rows inside a teacher token: C_r is a range of ranks, a different one for each row."""
        import torch

        index = inside.index_i
        if not len(index):
            return
        mass_VN.index_fill_(1, index, 0.0)
        emitted = rows.num_emitted_N[index].long()
        place = self.tables["offsets"][rows.teacher_token_N[index].long()] + emitted
        lo, hi = self.tables["range_lo"][place].long(), self.tables["range_hi"][place].long()
        for begin, end in _chunks((hi - lo).cumsum(0).tolist()):
            size = hi[begin:end] - lo[begin:end]
            row_E = torch.repeat_interleave(torch.arange(end - begin, device=size.device), size)
            first_E = (size.cumsum(0) - size)[row_E]
            rank_E = torch.arange(len(row_E), device=size.device) - first_E + lo[begin:end][row_E]
            token_E = self.tables["order"][rank_E].long()
            value_E = inside.logits_UI[token_E, inside.kept_i[begin:end][row_E]]
            top = value_E.new_full((end - begin,), -torch.inf)
            top = top.scatter_reduce(0, row_E, value_E, "amax").clamp_min(torch.finfo(value_E.dtype).min)
            share_E = (value_E - top[row_E]).exp()
            total = torch.zeros_like(top).index_add_(0, row_E, share_E)
            log_total_N[index[begin:end]] = top + total.log()
            share_E /= total.clamp_min(torch.finfo(total.dtype).tiny)[row_E]
            column_E = self._column(token_E, emitted[begin:end][row_E])
            flat_E = column_E * mass_VN.shape[1] + index[begin:end][row_E]
            mass_VN.view(-1).index_add_(0, flat_E, share_E)

    def _move_chain(self, mass_VN: Tensor, log_prob_N: Tensor, unit_N: Tensor, rows: Rows) -> None:
        """Move the value of the realised chain, p(t' | C_r) x p(tail), to the student's real token."""
        import torch

        index_N = torch.arange(len(rows), device=mass_VN.device)
        tail_N = torch.where(rows.num_tail_N > 0, rows.tail_log_prob_N.float(), 0.0)
        source_N = self._column(rows.teacher_token_N.long(), rows.num_emitted_N.long())
        available_N = mass_VN[source_N, index_N]
        moved_N = ((log_prob_N + tail_N).exp() * unit_N).nan_to_num(0.0).clamp_min(0.0).minimum(available_N)
        # A row without any possible token moves nothing; a tail that is no number must not look like one.
        moved_N = moved_N.masked_fill(tail_N.isnan(), torch.nan)
        mass_VN[source_N, index_N] = available_N - moved_N
        mass_VN[rows.student_token_N.long(), index_N] += moved_N

    def _column(self, token: Tensor, emitted: Tensor) -> Tensor:
        """Return the column that what is left of `token` after `emitted` bytes is written to."""
        import torch

        phi = self.tables["phi"][self.tables["offsets"][token] + emitted].long()
        column = torch.where(phi < 0, self.num_student_rows, phi)
        return torch.where(emitted == 0, self.tables["first_token"][token], column)


def _in_place(row_N: Tensor, is_inside_N: Tensor) -> bool:
    """Return whether the positions at boundaries come first, and the i-th of them reads row i."""
    import torch

    num_boundaries = int((~is_inside_N).sum())
    expected = torch.arange(num_boundaries, device=row_N.device)
    return torch.equal(row_N[:num_boundaries], expected) and not bool(is_inside_N[:num_boundaries].any())


class _Inside:
    """The positions inside of a teacher token, with the logits of their rows: ranges need single columns."""

    def __init__(self, rows: Rows, row_N: Tensor, teacher: TeacherRows, memory: ChunkMemory) -> None:
        self.is_inside_N = rows.num_emitted_N > 0
        self.index_i = self.is_inside_N.nonzero().squeeze(1)
        self.row_I, self.kept_i = row_N[self.index_i].unique(return_inverse=True)
        self.logits_UI = memory.logits.empty(teacher.num_columns, len(self.row_I), row_N.device)

    def keep(self, columns: slice, logits_uR: Tensor) -> None:
        """Keep what is needed of a tile."""
        import torch

        if len(self.row_I):
            torch.index_select(logits_uR, 1, self.row_I, out=self.logits_UI[columns])


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
