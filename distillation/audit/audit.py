"""The tokenizer audit: what a pair of tokenizers allows, known before anything is trained.

    python -m distillation.audit TEACHER STUDENT [TEXT ...] [--json] [--html PAGE]

It says how many ids mean the same on both sides (what truncation relies on), how many strings both have
(what `shared` uses), what the student cannot write (what `prefix` puts into its residual), and on given texts
what each aligner can use, by script and by kind of text. No weights are needed, and no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.audit.advice import advise
from distillation.audit.counting import VocabularyTables
from distillation.audit.coverage import CorpusAudit, audit_texts
from distillation.tokenizers.pairs import PairEncoder
from distillation.tokenizers.prefix_tables import longest_prefixes, offsets_by_id
from distillation.tokenizers.token_bytes import TokenBytes, same_tokenizer
from distillation.tokenizers.vocabularies import Vocabularies

MAX_EXAMPLES = 20


class VocabularyFacts(BaseModel):
    """One tokenizer by itself."""

    model_config = ConfigDict(frozen=True)

    family: str
    num_rows: int
    """Rows of the model's output layer; the number of ids where that is not known."""
    num_tokens: int
    """Ids that have a token, special ones included."""
    num_special_tokens: int
    num_rows_without_token: int
    missing_bytes: tuple[int, ...]
    """Single bytes, of 256, that no token stands for."""


class TokenizerAudit(BaseModel):
    """What a pair of tokenizers allows."""

    model_config = ConfigDict(frozen=True)

    teacher: VocabularyFacts
    student: VocabularyFacts
    identical_tokenizers: bool
    """Both turn every text into the same ids."""
    num_equal_ids: int
    """Ids that mean the same string on both sides."""
    num_compared_ids: int
    """min(U, V): the ids that truncation pairs."""
    equal_ids_share: float
    num_shared_tokens: int
    """Ordinary byte strings that both vocabularies have."""
    num_shared_dropped_by_truncation: int
    """Of those, how many truncation drops because the teacher's id is too large."""
    num_student_only_tokens: int
    """Ordinary byte strings of the student that the teacher lacks."""
    num_unwritable_teacher_tokens: int
    """Ordinary teacher tokens whose first byte the student cannot write: their mass is the residual."""
    unwritable_examples: tuple[str, ...]
    """Some of them, as bytes in hexadecimal."""
    corpus: CorpusAudit | None
    """What happens on the texts; None without texts, or if they are empty."""
    recommended_strategy: str
    """`prefix`, `shared` or `pad`; or `likelihood`, which is a term of the objective and needs no aligner."""
    advice: str
    """One sentence: which aligner, and why."""


def audit_tokenizers(
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    texts: Iterable[str] = (),
    *,
    num_teacher_rows: int | None = None,
    num_student_rows: int | None = None,
    window_length: int | None = None,
) -> TokenizerAudit:
    """Compare two tokenizers, and what they do with `texts`.

    Args:
        teacher_tokenizer: fast tokenizer of the teacher.
        student_tokenizer: fast tokenizer of the student.
        texts: documents like those that will be trained on.
        num_teacher_rows: U, rows of the teacher's output layer, if it has more than the tokenizer has ids.
        num_student_rows: V, likewise.
        window_length: tokens of a training window, start token included: what no window can hold counts as
            lost then. None aligns whole texts.

    Raises:
        AlignmentError: a tokenizer's tokens cannot be turned into bytes, or the output layer lacks rows of
            them.
    """
    encoder = PairEncoder(
        teacher_tokenizer,
        student_tokenizer,
        num_teacher_rows=num_teacher_rows,
        num_student_rows=num_student_rows,
    )
    teacher, student = encoder.teacher_bytes, encoder.student_bytes
    identical = len(teacher.table) == len(student.table) and same_tokenizer(*encoder.tokenizers)
    rows = (num_teacher_rows or len(teacher.table), num_student_rows or len(student.table))
    vocabularies = Vocabularies(teacher, student, *encoder.tokenizers, *rows, identical)
    shared = teacher.canonical_ids.keys() & student.canonical_ids.keys()
    tables = _tables(vocabularies, shared)
    corpus = audit_texts(encoder, texts, tables, window_length=window_length)
    unwritable = np.flatnonzero((teacher.lengths > 0) & ~tables.writable_U)
    num_compared, num_equal = min(rows), int(tables.same_meaning_U.sum())
    strategy, advice = advise(identical, corpus, num_equal, num_compared)
    return TokenizerAudit(
        teacher=_facts(teacher, rows[0]),
        student=_facts(student, rows[1]),
        identical_tokenizers=identical,
        num_equal_ids=num_equal,
        num_compared_ids=num_compared,
        equal_ids_share=num_equal / num_compared,
        num_shared_tokens=len(shared),
        num_shared_dropped_by_truncation=sum(teacher.canonical_ids[token] >= rows[1] for token in shared),
        num_student_only_tokens=len(student.canonical_ids.keys() - shared),
        num_unwritable_teacher_tokens=len(unwritable),
        unwritable_examples=tuple((teacher.table[i] or b"").hex() for i in unwritable[:MAX_EXAMPLES]),
        corpus=corpus,
        recommended_strategy=strategy,
        advice=advice,
    )


def _facts(tokens: TokenBytes, num_rows: int) -> VocabularyFacts:
    num_special = len(tokens.special_ids)
    num_tokens = int(np.count_nonzero(tokens.lengths)) + num_special
    return VocabularyFacts(
        family=tokens.family,
        num_rows=num_rows,
        num_tokens=num_tokens,
        num_special_tokens=num_special,
        num_rows_without_token=num_rows - num_tokens,
        missing_bytes=tokens.missing_bytes,
    )


def _same_meaning(teacher: TokenBytes, student: TokenBytes) -> np.ndarray:
    """Return bool per teacher id: the student's token of this id is the same string."""
    same = np.zeros(len(teacher.table), dtype=bool)
    for index, (one, other) in enumerate(zip(teacher.table, student.table, strict=False)):
        same[index] = one is not None and one == other
    for text, index in teacher.special_strings.items():
        same[index] = student.special_strings.get(text) == index
    return same


def _tables(vocabularies: Vocabularies, shared: Set[bytes]) -> VocabularyTables:
    teacher, student, tokens = vocabularies.teacher, vocabularies.student, vocabularies.sorted_teacher
    writable_places = longest_prefixes(tokens, vocabularies.sorted_student) >= 0
    writable = np.zeros(len(teacher.table), dtype=bool)
    writable[tokens.ids] = writable_places[tokens.starts]
    return VocabularyTables(
        same_meaning_U=_same_meaning(teacher, student),
        in_student_U=np.array([token in shared if token else False for token in teacher.table], dtype=bool),
        writable_U=writable,
        offsets_U=offsets_by_id(tokens, len(teacher.table)),
        writable_places=writable_places,
        num_student_rows=vocabularies.num_student_rows,
    )
