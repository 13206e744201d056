"""Counting over texts what each aligner can use of them, by script and kind of every student token.

Legend, at the end of names: N student positions, M teacher tokens, U teacher vocabulary, S scripts, K kinds.

A count is not one number but a table (S, K): the same masks, counted by the labels of `kinds`. Whatever is
said about a slice is then a sum over a part of the table, and of the whole a sum over all of it.

Every student token of every given text is a position, also those of texts that were refused and of stretches
that no window holds: a share of what is left would flatter.

Invariant: each position is counted under `positions` and under exactly one of `prefix`, `residual`, `beyond`,
`left_out`, `refused: CAUSE` and `lost: CAUSE`.
"""

# ruff: noqa: N815 - the shape suffixes of design section 2 stand in field names too.
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import EncodedPair, EncodedText, Losses, PairEncoder, Refusal, as_unicode
from distillation.tokenizers.plain_text import PlainText
from distillation.tokenizers.spans import align_spans, group_spans
from distillation.tokenizers.text_classes import KINDS, SCRIPTS, TextLabels, label_bytes, label_text

REFUSED = "refused: "
LOST = "lost: "


@dataclass(frozen=True)
class VocabularyTables:
    """What is known about the teacher's tokens beside the student's vocabulary."""

    same_meaning_U: np.ndarray
    """bool: the student's token of the same id is the same string."""
    in_student_U: np.ndarray
    """bool: the student has a token of this string."""
    writable_U: np.ndarray
    """bool: the student can write the token's beginning."""
    offsets_U: np.ndarray
    """int64: where a token's bytes begin in `writable_places`; -1 without bytes."""
    writable_places: np.ndarray
    """bool: some student token is a prefix of what is left of the teacher's token from this byte on."""
    num_student_rows: int
    """V, what truncation cuts to."""


class Tally:
    """Counts of one corpus; `add` takes one batch of texts after another.

    Args:
        encoder: encodes with both tokenizers.
        tables: facts about the vocabularies.
        window_length: tokens of a window, start token included, as in training; None aligns whole texts.
    """

    def __init__(
        self, encoder: PairEncoder, tables: VocabularyTables, window_length: int | None = None
    ) -> None:
        self.encoder = encoder
        self._student = PlainText(encoder.tokenizers[1], len(encoder.student_bytes.table))
        self.tables = tables
        self.max_tokens = None if window_length is None else window_length - 1
        self.counts: defaultdict[str, np.ndarray] = defaultdict(
            lambda: np.zeros((len(SCRIPTS), len(KINDS)), dtype=np.int64)
        )
        """Name -> int64 (S, K)."""
        self.numbers: Counter[str] = Counter()
        """Counts that have no labels: texts, bytes, groups."""
        self.refusals: Counter[str] = Counter()
        """Cause -> texts."""

    def add(self, texts: Sequence[str]) -> None:
        """Count `texts`."""
        self.numbers["texts"] += len(texts)
        pairs = []
        for text, outcome in zip(texts, self.encoder.outcomes(texts), strict=True):
            if isinstance(outcome, Refusal):
                self._add_refused(text, str(outcome))
                continue
            if outcome.losses is not None:
                self._add_lost(outcome.losses)
                outcome = with_bytes(outcome)
            pairs.append(outcome)
        if pairs:
            self._add_accepted(pairs)

    def _count(self, code: np.ndarray, **masks: np.ndarray) -> None:
        shape = len(SCRIPTS), len(KINDS)
        for name, mask in masks.items():
            self.counts[name] += np.bincount(code[mask], minlength=shape[0] * shape[1]).reshape(shape)

    def _add_lost(self, losses: Losses) -> None:
        """Count the student tokens that were lost of a text that is accepted."""
        self.numbers["shortened"] += 1
        code = _code(label_bytes(losses.text.encode("utf-8")), losses.begins, losses.ends)
        causes = np.array(losses.causes, dtype=object)
        self._count(code, positions=np.ones(len(code), dtype=bool))
        for cause in sorted(set(losses.causes)):
            self._count(code, **{LOST + cause: causes == cause})

    def _add_refused(self, text: str, cause: str) -> None:
        """Count all student tokens of a refused text as lost, by its cause."""
        self.refusals[cause] += 1
        text = as_unicode(text)
        offsets = self._student.encodings([text])[0].offsets
        if text and offsets:
            begins, ends = np.array(offsets, dtype=np.int64).T
            code = _code(label_text(text), begins, ends)
            every = np.ones(len(code), dtype=bool)
            self._count(code, positions=every, **{REFUSED + cause: every})

    def _add_accepted(self, pairs: Sequence[EncodedPair]) -> None:
        labels = [label_bytes(self.encoder.student_bytes.join(pair.student.ids)) for pair in pairs]
        self.numbers["bytes"] += sum(pair.num_bytes for pair in pairs)
        self._add_teacher_tokens(pairs, labels)
        groups = group_spans(pairs)
        self.numbers["groups"] += len(groups.window_G)
        for teacher, student in (("1", "1"), ("1", "n"), ("n", "1"), ("n", "n")):
            self.numbers[f"{teacher}:{student}"] += groups.count(teacher, student)
        code_N = np.concatenate(
            [_code(label, p.student.begins, p.student.ends) for label, p in zip(labels, pairs, strict=True)]
        )
        touches_N = np.concatenate(
            [
                label.touches_whitespace(p.student.begins, p.student.ends)
                for label, p in zip(labels, pairs, strict=True)
            ]
        )
        # Both sides end at the same byte, so the groups hold every token, in order.
        sizes_N = [
            np.repeat(size_G, groups.num_student_tokens_G)
            for size_G in (groups.num_teacher_tokens_G, groups.num_student_tokens_G)
        ]
        differs_N = (sizes_N[0] > 1) | (sizes_N[1] > 1)
        every_N = np.ones(len(code_N), dtype=bool)
        self._count(
            code_N,
            positions=every_N,
            tokens=every_N,
            whitespace=touches_N,
            hazard=touches_N & differs_N,
            cut_alike=~differs_N,
        )
        if self.max_tokens is None:
            self._add_windows(pairs, code_N)
            return
        left_out_N = np.maximum(*sizes_N) > self.max_tokens
        self._count(code_N, left_out=left_out_N)
        windows = [window for pair in pairs for window in cut_pair(pair, self.max_tokens)]
        if windows:
            self._add_windows(windows, code_N[~left_out_N])

    def _add_teacher_tokens(self, pairs: Sequence[EncodedPair], labels: Sequence[TextLabels]) -> None:
        tables = self.tables
        code_M = np.concatenate(
            [_code(label, p.teacher.begins, p.teacher.ends) for label, p in zip(labels, pairs, strict=True)]
        )
        ids_M = np.concatenate([pair.teacher.ids for pair in pairs])
        self._count(
            code_M,
            teacher_tokens=np.ones(len(ids_M), dtype=bool),
            retained_shared=tables.in_student_U[ids_M],
            retained_prefix=tables.writable_U[ids_M],
            retained_truncate=ids_M < tables.num_student_rows,
            same_meaning=tables.same_meaning_U[ids_M],
        )

    def _add_windows(self, windows: Sequence[EncodedPair], code_N: np.ndarray) -> None:
        """Count what the alignment of `windows`, which hold exactly the tokens of `code_N`, gives."""
        spans = align_spans(windows)
        num_student = np.array([len(window.student.ids) for window in windows])
        num_teacher = np.array([len(window.teacher.ids) for window in windows])
        real_BT = np.arange(spans.teacher_position_BT.shape[1]) < num_student[:, None]
        window_N, position_N = np.nonzero(real_BT)
        row_N = spans.teacher_position_BT[real_BT]
        emitted_N, one_to_one_N = spans.num_emitted_BT[real_BT], spans.is_one_to_one_BT[real_BT]
        reached_N = row_N >= 0
        at_boundary_N = reached_N & (emitted_N == 0)
        teacher_ids = np.concatenate([window.teacher.ids for window in windows])
        first = np.cumsum(num_teacher) - num_teacher
        token_N = teacher_ids[(first[window_N] + row_N)[reached_N]]
        residual_N = np.zeros(len(row_N), dtype=bool)
        place = self.tables.offsets_U[token_N] + emitted_N[reached_N]
        residual_N[reached_N] = ~self.tables.writable_places[place]
        self._count(
            code_N,
            prefix=reached_N & ~residual_N,
            residual=residual_N,
            beyond=~reached_N,
            one_to_one=one_to_one_N,
            boundary=at_boundary_N,
            ends_differ=at_boundary_N & ~one_to_one_N,
            inside=reached_N & ~at_boundary_N,
            past=spans.num_tail_BT[real_BT] > 0,
            # Truncation takes row j for position j: right where that row has read the same text.
            by_index=position_N < num_teacher[window_N],
            without_row=position_N >= num_teacher[window_N],
            same_row=at_boundary_N & (row_N == position_N),
        )


def with_bytes(pair: EncodedPair) -> EncodedPair:
    """Return the tokens of `pair` that have bytes."""

    def chosen(text: EncodedText) -> EncodedText:
        has_bytes = text.ends > text.begins
        return EncodedText(text.ids[has_bytes], text.ends[has_bytes])

    return EncodedPair(chosen(pair.teacher), chosen(pair.student), pair.num_bytes)


def _code(labels: TextLabels, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return script and kind of each token as one number, the place in a flattened (S, K) table."""
    script, kind = labels.of_tokens(begins, ends)
    return script.astype(np.int64) * len(KINDS) + kind
