"""`from distillation import audit, distil`: both functions on the embedded pair, and README's own lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from distillation import audit, distil
from distillation.audit.audit import TokenizerAudit
from distillation.errors import CorpusError, SettingsError

ROOT = Path(__file__).resolve().parents[2]
FEW_STEPS = {"max_steps": 2, "batch_size": 2, "evaluations": 1}


def test_the_audit_takes_texts_in_all_forms(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("Bytes are the common ground.\n")
    from_folder = audit("sample", "sample", tmp_path)
    assert isinstance(from_folder, TokenizerAudit)
    assert from_folder == audit("sample", "sample", str(tmp_path / "some.txt"))
    assert from_folder == audit("sample", "sample", ["Bytes are the common ground.\n"])
    assert audit("sample", "sample").corpus is None


def test_the_audit_can_be_called_whatever_was_imported_before() -> None:
    program = (
        "import {first}\nimport distillation\nfrom distillation import audit\n"
        "assert audit('sample', 'sample').num_compared_ids == 3072\n"
        "assert distillation.audit is audit\nimport sys\nassert 'torch' not in sys.modules"
    )
    for first in ("distillation", "distillation.audit.audit"):
        subprocess.run([sys.executable, "-c", program.format(first=first)], cwd=ROOT, check=True)


def test_a_student_by_one_call(
    tiny_teacher_dir: Path, tiny_student_dir: Path, english_documents: list[str], tmp_path: Path
) -> None:
    def call() -> Path:
        return distil(
            tiny_teacher_dir,
            tiny_student_dir,
            iter(english_documents),
            corpus={"held_out_share": 0.2},
            training={**FEW_STEPS, "output_dir": str(tmp_path / "jobs")},
            models={"device": "cpu"},
        )

    student = call()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(student)
    assert model.get_input_embeddings().weight.shape[0] >= len(AutoTokenizer.from_pretrained(student))
    weights = student / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert call() == student  # found, not trained again
    assert weights.stat().st_mtime_ns == before


def test_mistakes_are_one_line() -> None:
    with pytest.raises(SettingsError, match=r"training\.max_step"):
        distil("sample", "sample", training={"max_step": 2})
    with pytest.raises(CorpusError, match="no training document"):
        distil("sample", "sample", ["too few"])


def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(lines.splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Use `prefix`" in done.stdout
    student = tmp_path / done.stdout.splitlines()[-1]
    assert (student / "model.safetensors").is_file()
