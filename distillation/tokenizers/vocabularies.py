"""Two vocabularies side by side: what every builder of an aligner starts from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from distillation.tokenizers.prefix_tables import SortedTokens, ordinary_tokens, sort_tokens
from distillation.tokenizers.token_bytes import TokenBytes, same_tokenizer, tokens_as_bytes

ROLES = ("eos", "bos", "pad", "unk")
"""In order of precedence, for a special token that has several."""


@dataclass(frozen=True)
class Vocabularies:
    """The tokens of teacher and student as bytes, `in_rows` of both output layers, and their sizes."""

    teacher: TokenBytes
    student: TokenBytes
    teacher_tokenizer: Any
    student_tokenizer: Any
    num_teacher_rows: int
    """U."""
    num_student_rows: int
    """V."""
    identical: bool
    """Both tokenizers are the same: row i stands for row i."""

    @functools.cached_property
    def sorted_teacher(self) -> SortedTokens:
        """The teacher's ordinary tokens in byte order, every id of them."""
        return sort_tokens(ordinary_tokens(self.teacher.table))

    @functools.cached_property
    def sorted_student(self) -> SortedTokens:
        """The student's byte strings in byte order, each with the one id that its tokenizer uses."""
        return sort_tokens({index: token for token, index in self.student.canonical_ids.items()})


def pair_vocabularies(
    teacher_tokenizer: Any, student_tokenizer: Any, *, num_teacher_rows: int, num_student_rows: int
) -> Vocabularies:
    """Return both vocabularies.

    Raises:
        AlignmentError: a tokenizer without known bytes, or an output layer that lacks rows of its tokens.
    """
    teacher = tokens_as_bytes(teacher_tokenizer).in_rows(num_teacher_rows, "teacher")
    student = tokens_as_bytes(student_tokenizer).in_rows(num_student_rows, "student")
    return Vocabularies(
        teacher,
        student,
        teacher_tokenizer,
        student_tokenizer,
        num_teacher_rows,
        num_student_rows,
        identical=len(teacher.table) == len(student.table)
        and same_tokenizer(teacher_tokenizer, student_tokenizer),
    )


def map_specials(teacher: TokenBytes, student: TokenBytes, *, by_role: bool = True) -> dict[int, int]:
    """Return teacher id -> student id of special tokens: of the same text, else of the same role."""
    mapping = {
        index: student.special_strings[text]
        for text, index in teacher.special_strings.items()
        if text in student.special_strings
    }
    if by_role:
        for role in ROLES:
            index = teacher.special_roles.get(role)
            if index is not None and index not in mapping and role in student.special_roles:
                mapping[index] = student.special_roles[role]
    return mapping
