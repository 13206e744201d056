"""The audit of two models by name: a function beside the command `python -m distillation.audit`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distillation.audit.__main__ import MAX_MEGABYTES, load_for_audit, read_texts
from distillation.audit.audit import TokenizerAudit, audit_tokenizers


def audit(
    teacher: str | Path,
    student: str | Path,
    texts: str | Path | Iterable[str] = (),
    *,
    window_length: int | None = None,
) -> TokenizerAudit:
    """Say what the tokenizers of two models have in common; no weights are read.

    Args:
        teacher: directory or hub repository of the model, or `sample` for the embedded one.
        student: likewise.
        texts: a file or a folder, of which at most 10 MB are read, or documents as strings. Without any, only
            the vocabularies are compared.
        window_length: cut texts into windows of so many tokens, as training does; None makes no cuts.

    Raises:
        ModelError: there is no such model, or its files are damaged.
        AlignmentError: a text cannot be read, or the tokens of a tokenizer cannot be turned into bytes.
    """
    teacher_tokenizer, num_teacher_rows = load_for_audit(str(teacher), "teacher")
    student_tokenizer, num_student_rows = load_for_audit(str(student), "student")
    if isinstance(texts, str | Path):
        texts = read_texts([Path(texts)], int(MAX_MEGABYTES * 1_000_000))
    return audit_tokenizers(
        teacher_tokenizer,
        student_tokenizer,
        texts,
        num_teacher_rows=num_teacher_rows,
        num_student_rows=num_student_rows,
        window_length=window_length,
    )
