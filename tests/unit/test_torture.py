"""The share of `make torture` and of `make fuzz` that takes seconds: a few kills, harms and odd inputs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz
from distillation.errors import DistillationError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_quick_share_of_torture_holds(
    tiny_teacher_dir: Path, tiny_student_dir: Path, tmp_path: Path
) -> None:
    """A training is killed, started twice at once and damaged; it ends with the same bits or a line."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.torture", "--share", "quick", "--work", str(tmp_path)),
            *("--teacher", str(tiny_teacher_dir), "--student", str(tiny_student_dir)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for what in ("kill -9 at random instants", "two processes", "truncation"):
        assert what in done.stdout


@pytest.fixture(scope="module")
def fuzz_base(
    tmp_path_factory: pytest.TempPathFactory, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> Path:
    base = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(tiny_teacher_dir, base / "teacher")
    shutil.copytree(tiny_student_dir, base / "student")
    fuzz.make_corpora(base / "corpora")
    return base


@pytest.mark.parametrize("kind", ["settings", "corpus", "header"])
def test_mutated_inputs_are_accepted_or_refused_by_an_error_of_ours(
    kind: str, fuzz_base: Path, tmp_path: Path
) -> None:
    reader = fuzz.KINDS[kind](fuzz_base)
    for number in range(25):
        folder, chance = fuzz.new_folder(tmp_path, str(number)), fuzz.chance_of(kind, 7, number)
        path = reader.copy(folder, chance)
        reader.change(path, chance)
        with contextlib.suppress(DistillationError):
            reader.read(folder)
