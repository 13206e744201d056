"""Settings of a short training on a file of documents, for tiny models on a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillation.config import Settings, parse_settings


def make_settings(
    teacher: Path, student: Path, corpus: Path, *, cache: dict[str, Any] | None = None, **training: Any
) -> Settings:
    return parse_settings(
        {
            "corpus": {
                "sources": [{"kind": "file", "path": str(corpus)}],
                "held_out_share": 0.2,
                "contract": {"max_leaking_documents_share": 1.0},
            },
            "models": {"teacher": {"path": str(teacher)}, "student": {"path": str(student)}, "device": "cpu"},
            "training": {"max_length": 64, "batch_size": 4, "evaluations": 6, "max_steps": 18, **training},
            "cache": cache,
        }
    )
