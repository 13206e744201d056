"""Cutting a document that two tokenizers have encoded, without tearing a token of either.

Tokens without bytes, a chat template's, stay in order: what stands between two messages goes with the later
one, whose header it holds, but the student's tokens that are trained on (the end of a turn) stay with theirs.

Invariant: the pieces cover each token at most once, in order, and each piece is the same bytes on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distillation.tokenizers.pairs import EncodedPair, EncodedText


def cut_pair(pair: EncodedPair, max_tokens: int) -> Iterator[EncodedPair]:
    """Cut `pair` at shared boundaries into pieces of at most `max_tokens` tokens on either side, in order.

    A stretch without a shared boundary that is longer than a piece is left out. A conversation that fits is
    one piece.
    """
    if pair.trained is not None and max(len(pair.teacher.ids), len(pair.student.ids)) <= max_tokens:
        yield pair
        return
    shared = np.intersect1d(pair.teacher.ends, pair.student.ends)
    shared = shared[shared > 0]
    # How many tokens of each side end at or before each common cut.
    teacher_at = np.searchsorted(pair.teacher.ends, shared) + 1
    student_at = np.searchsorted(pair.student.ends, shared) + 1
    if pair.trained is not None:
        student_at, is_cut = _between_turns(student_at, pair.student, pair.trained)
        shared, teacher_at, student_at = shared[is_cut], teacher_at[is_cut], student_at[is_cut]
    begin_byte = teacher_begin = student_begin = place = 0
    while place < len(shared):
        fits_teacher = np.searchsorted(teacher_at, teacher_begin + max_tokens, side="right")
        fits_student = np.searchsorted(student_at, student_begin + max_tokens, side="right")
        last = int(min(fits_teacher, fits_student)) - 1
        is_fitting = last >= place
        last = max(last, place)
        end_byte, teacher_end, student_end = int(shared[last]), int(teacher_at[last]), int(student_at[last])
        if is_fitting:
            yield EncodedPair(
                _stretch(pair.teacher, teacher_begin, teacher_end, begin_byte),
                _stretch(pair.student, student_begin, student_end, begin_byte),
                end_byte - begin_byte,
                None if pair.trained is None else pair.trained[student_begin:student_end],
            )
        begin_byte, teacher_begin, student_begin = end_byte, teacher_end, student_end
        place = last + 1


def _between_turns(
    counts: np.ndarray, student: EncodedText, trained: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return cuts moved past the trained tokens without bytes that follow them, and which cuts may be used.

    None comes right before the last token of an answer, its end of turn: alone in a piece it would be learnt
    as an answer to nothing.
    """
    stops = np.append(np.flatnonzero(~(trained & (student.ends == student.begins))), len(trained))
    counts = stops[np.searchsorted(stops, counts)]
    follows, goes_on = np.append(False, trained[:-1]), np.append(trained[1:], False)
    is_last = np.append(trained & follows & ~goes_on, False)
    return counts, ~is_last[counts]


def _stretch(text: EncodedText, begin: int, end: int, begin_byte: int) -> EncodedText:
    return EncodedText(ids=text.ids[begin:end], ends=text.ends[begin:end] - begin_byte)
