"""Which of the held-out documents choose a checkpoint, and which are measured: code and documents agree."""

from __future__ import annotations

import hashlib
from pathlib import Path

from distillation.corpus.documents import is_validation

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_a_quarter_of_the_held_out_documents_chooses_the_checkpoint() -> None:
    chosen = [is_validation(hashlib.sha256(str(number).encode()).hexdigest()) for number in range(4000)]
    assert abs(sum(chosen) / len(chosen) - 0.25) < 0.03
    page = (DOCS / "mlflow.md").read_text()
    assert "the validation quarter of the held-out documents" in page
    assert "the test three quarters of the\nheld-out documents" in page
