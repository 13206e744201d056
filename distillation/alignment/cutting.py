"""Cutting a document that two tokenizers have encoded, without tearing a token of either.

Invariant: the pieces cover each token at most once, in order, and each piece is the same bytes on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distillation.alignment.pairs import EncodedPair, EncodedText


def cut_pair(pair: EncodedPair, max_tokens: int) -> Iterator[EncodedPair]:
    """Cut `pair` at shared boundaries into pieces of at most `max_tokens` tokens on either side, in order.

    A stretch without a shared boundary that is longer than a piece is left out.
    """
    shared = np.intersect1d(pair.teacher.ends, pair.student.ends)
    # How many tokens of each side end at or before each common cut.
    teacher_at = np.searchsorted(pair.teacher.ends, shared, side="right")
    student_at = np.searchsorted(pair.student.ends, shared, side="right")
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
            )
        begin_byte, teacher_begin, student_begin = end_byte, teacher_end, student_end
        place = last + 1


def _stretch(text: EncodedText, begin: int, end: int, begin_byte: int) -> EncodedText:
    return EncodedText(ids=text.ids[begin:end], ends=text.ends[begin:end] - begin_byte)
