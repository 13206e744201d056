"""Where the tokens of a teacher and a student stand over the same bytes.

Legend, at the end of names: B windows, T positions (student tokens), G groups.

A window is `[start] + tokens`, and logits row j predicts token j of the list, so a position *begins* at
the byte where token j begins: begin(j) = end(j - 1), begin(0) = 0. Aligning positions by where the
predicted token begins, and not by where it ends, is the causal shift; being off by one here trains on the
wrong rows.

For student position j the conditioning teacher position is the row whose token covers begin(j): i = the
largest row with begin_teacher(i) <= begin_student(j), and k = begin_student(j) - begin_teacher(i) bytes
of that token are emitted already. A student token that runs past the teacher token's end also covers the
`tail`: the further teacher tokens that begin before it ends. All windows are handled at once: their bytes
lie end to end on one line, where the token of a byte is looked up and not searched for.

Invariants: k = 0 exactly at shared boundaries; groups partition both token lists; all group bytes are
equal.
"""

# ruff: noqa: N815 - the shape suffixes of design section 2 stand in field names too.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillation.tokenizers.pairs import EncodedPair, EncodedText


@dataclass(frozen=True)
class Alignment:
    """What each student position of a batch learns from; numpy, padded to the longest student window."""

    teacher_position_BT: np.ndarray
    """int64: row of the teacher's logits; -1 where there is no target."""
    num_emitted_BT: np.ndarray
    """int32: bytes of the teacher's token that stand before the position; 0 at a shared boundary."""
    num_tail_BT: np.ndarray
    """int32: rows `teacher_position + 1 .. + num_tail` are covered too, in whole or in part."""
    is_one_to_one_BT: np.ndarray
    """bool: teacher and student token begin and end at the same bytes."""


@dataclass(frozen=True)
class Groups:
    """The stretches between neighbouring shared boundaries, over all windows of a batch."""

    window_G: np.ndarray
    """int64: window of each group."""
    num_teacher_tokens_G: np.ndarray
    """int64: at least 1."""
    num_student_tokens_G: np.ndarray
    """int64: at least 1."""

    def count(self, teacher: str, student: str) -> int:
        """Return the number of groups of a kind, for example `count("1", "n")`; "n" means more than one."""
        sides = ((teacher, self.num_teacher_tokens_G), (student, self.num_student_tokens_G))
        chosen = [sizes == 1 if word == "1" else sizes > 1 for word, sizes in sides]
        return int(np.count_nonzero(chosen[0] & chosen[1]))


@dataclass(frozen=True)
class _Side:
    """The tokens of all windows of one side in one list, each window at its own stretch of the line of bytes.

    Tokens without bytes (a chat template's) are left out; `position` still counts them.
    """

    begins: np.ndarray
    ends: np.ndarray
    window: np.ndarray
    position: np.ndarray
    first: np.ndarray
    """Where each window begins in this list."""


def align_spans(pairs: Sequence[EncodedPair]) -> Alignment:
    """Align every student position of `pairs` with the teacher's row that covers its first byte.

    The windows of a pair start at the same byte but may be cut at different ones: a student position has no
    target unless the teacher's tokens reach the end of the student's token.
    """
    num_windows = len(pairs)
    longest = max((len(pair.student.ids) for pair in pairs), default=0)
    shape = (num_windows, longest)
    alignment = Alignment(
        teacher_position_BT=np.full(shape, -1, dtype=np.int64),
        num_emitted_BT=np.zeros(shape, dtype=np.int32),
        num_tail_BT=np.zeros(shape, dtype=np.int32),
        is_one_to_one_BT=np.zeros(shape, dtype=bool),
    )
    teacher, student, num_places = _both_sides(pairs)
    if len(student.begins) == 0 or len(teacher.begins) == 0:
        return alignment
    # The row that covers each byte.
    row_at = np.cumsum(_marks(teacher.begins, num_places)) - 1
    last_row = row_at[student.ends - 1]
    # Where the teacher's tokens stop short, a row of earlier bytes is found: it predicts nothing.
    used = (last_row >= 0) & (teacher.ends[last_row] >= student.ends)
    begins, ends, last_row = student.begins[used], student.ends[used], last_row[used]
    row, at = row_at[begins], (student.window * longest + student.position)[used]
    num_emitted = begins - teacher.begins[row]
    alignment.teacher_position_BT.reshape(-1)[at] = teacher.position[row]
    alignment.num_emitted_BT.reshape(-1)[at] = num_emitted
    alignment.num_tail_BT.reshape(-1)[at] = last_row - row
    alignment.is_one_to_one_BT.reshape(-1)[at] = (num_emitted == 0) & (ends == teacher.ends[row])
    return alignment


def align_by_index(pairs: Sequence[EncodedPair]) -> Alignment:
    """Pair position j with row j, as scripts do that take equal tokenizers for granted: a control."""
    spans = align_spans(pairs)
    num_windows, longest = spans.teacher_position_BT.shape
    position = np.broadcast_to(np.arange(longest), (num_windows, longest))
    num_both = [min(len(pair.teacher.ids), len(pair.student.ids)) for pair in pairs]
    used = position < np.array(num_both, dtype=np.int64)[:, None]
    return Alignment(
        teacher_position_BT=np.where(used, position, -1).astype(np.int64),
        num_emitted_BT=np.zeros_like(spans.num_emitted_BT),
        num_tail_BT=np.zeros_like(spans.num_tail_BT),
        is_one_to_one_BT=used & spans.is_one_to_one_BT & (spans.teacher_position_BT == position),
    )


def group_spans(pairs: Sequence[EncodedPair]) -> Groups:
    """Return the groups between shared boundaries; what follows the last shared boundary is in no group."""
    teacher, student, num_places = _both_sides(pairs)
    shared = student.ends[_marks(teacher.ends, num_places)[student.ends]]
    teacher_index = np.searchsorted(teacher.ends, shared)
    student_index = np.searchsorted(student.ends, shared)
    window = student.window[student_index]
    is_first = np.ones(len(shared), dtype=bool)
    is_first[1:] = window[1:] != window[:-1]

    def sizes(index: np.ndarray, first: np.ndarray) -> np.ndarray:
        before = np.concatenate([[-1], index[:-1]]).astype(np.int64)[: len(index)]
        return index - np.where(is_first, first[window] - 1, before)

    return Groups(
        window_G=window,
        num_teacher_tokens_G=sizes(teacher_index, teacher.first),
        num_student_tokens_G=sizes(student_index, student.first),
    )


def group_ids(pairs: Sequence[EncodedPair]) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of every token, counted from 0 inside each window, in the order of `group_spans`.

    Returns:
        (int32 (B, T) of the student's tokens, int32 (B, S) of the teacher's), each padded to its longest
        window; -1 for padding and for tokens after the last shared boundary.
    """
    teacher, student, num_places = _both_sides(pairs)
    is_shared = _marks(teacher.ends, num_places)[student.ends]
    shared, window = student.ends[is_shared], student.window[is_shared]
    first = np.searchsorted(window, np.arange(len(pairs)))
    marks = _marks(shared, num_places)
    num_shared_before = np.cumsum(marks) - marks

    def scatter(side: _Side, texts: list[EncodedText]) -> np.ndarray:
        result = np.full((len(pairs), max((len(text.ids) for text in texts), default=0)), -1, dtype=np.int32)
        # A token's group is closed by the first shared boundary at or after its end, in its own window.
        closing = num_shared_before[side.ends]
        window_or_none = np.append(window, -1)[closing]
        used = window_or_none == side.window
        group = closing[used] - first[side.window[used]]
        result[side.window[used], side.position[used]] = group
        return result

    return (
        scatter(student, [pair.student for pair in pairs]),
        scatter(teacher, [pair.teacher for pair in pairs]),
    )


def _both_sides(pairs: Sequence[EncodedPair]) -> tuple[_Side, _Side, int]:
    """Return the tokens of both sides on one line of bytes, and how many places that has."""
    sizes = [
        max((int(side.ends[-1]) for side in (pair.teacher, pair.student) if len(side.ends)), default=0)
        for pair in pairs
    ]
    # One more than the window, so that its end is not the begin of the next one.
    places = np.array(sizes, dtype=np.int64) + 1
    shift = np.cumsum(places) - places
    return (
        _one_side([pair.teacher for pair in pairs], shift),
        _one_side([pair.student for pair in pairs], shift),
        int(places.sum()),
    )


def _marks(places: np.ndarray, num_places: int) -> np.ndarray:
    marks = np.zeros(num_places, dtype=bool)
    marks[places] = True
    return marks


def _one_side(texts: Sequence[EncodedText], shift: np.ndarray) -> _Side:
    lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
    window = np.repeat(np.arange(len(texts)), lengths)
    position = np.arange(int(lengths.sum())) - (np.cumsum(lengths) - lengths)[window]
    empty = np.zeros(0, dtype=np.int64)
    ends = np.concatenate([empty, *(text.ends for text in texts)]).astype(np.int64)
    begins = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])[: len(ends)]
    begins = np.where(position == 0, 0, begins)
    # Tokens without bytes are read by the model but stand for no common text: nothing aligns with them.
    has_bytes = ends > begins
    if not has_bytes.all():
        begins, ends, window, position = (part[has_bytes] for part in (begins, ends, window, position))
    num_tokens = np.bincount(window, minlength=len(texts))
    begins, ends = begins + shift[window], ends + shift[window]
    return _Side(begins, ends, window, position, np.cumsum(num_tokens) - num_tokens)
