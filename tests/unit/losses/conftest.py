"""The random pair of the objectives' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillation.config import ModelReference
from distillation.models.load import load_model, load_tokenizer


@pytest.fixture(scope="session")
def models(tiny_teacher_dir: Path, tiny_student_dir: Path):
    teacher, student = ModelReference(path=str(tiny_teacher_dir)), ModelReference(path=str(tiny_student_dir))
    return {
        "teacher": load_model(teacher, "teacher", dtype="float32"),
        "student": load_model(student, "student", dtype="float32"),
        "teacher_tokenizer": load_tokenizer(teacher, "teacher"),
        "student_tokenizer": load_tokenizer(student, "student"),
    }
