"""An aligner through a real local artifact store: same targets to the bit, no pickle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def materializer(stored: Callable[[type], Any]) -> Any:
    from materializers.aligner import AlignerMaterializer

    return stored(AlignerMaterializer)


def build(strategy: str, teacher: Path, student: Path) -> Any:
    from distillation.aligners.build import build_aligner
    from distillation.config import ModelReference
    from distillation.models.load import load_tokenizer

    return build_aligner(
        strategy,
        load_tokenizer(ModelReference(path=str(teacher)), "teacher"),
        load_tokenizer(ModelReference(path=str(student)), "student"),
        num_teacher_rows=608,
        num_student_rows=400,
    )


@pytest.mark.parametrize("strategy", ["prefix", "projection", "shared", "truncate", "pad"])
def test_round_trip(strategy: str, materializer: Any, tiny_teacher_dir: Path, tiny_student_dir: Path) -> None:
    import torch

    from distillation.aligners.base import Aligner, Rows

    aligner = build(strategy, tiny_teacher_dir, tiny_student_dir)
    materializer.save(aligner)
    loaded = materializer.load(Aligner)
    assert type(loaded) is type(aligner)
    log_probs = torch.randn(6, 608, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    zeros = torch.zeros(6, dtype=torch.int64)
    rows = Rows(torch.full((6,), 300), torch.full((6,), 300), zeros, zeros, torch.zeros(6))
    before, after = aligner.targets(log_probs, rows), loaded.targets(log_probs, rows)
    assert torch.equal(before.probabilities_NV, after.probabilities_NV)
    assert torch.equal(before.residual_N, after.residual_N)
    suffixes = {path.suffix for path in Path(materializer.uri).rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors"}


def test_hash_tells_strategies_apart(
    materializer: Any, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> None:
    strategies = ("prefix", "projection", "shared", "truncate", "prefix")
    hashes = [
        materializer.compute_content_hash(build(strategy, tiny_teacher_dir, tiny_student_dir))
        for strategy in strategies
    ]
    assert hashes[0] == hashes[-1]
    assert len(set(hashes)) == 4
    edited = build("prefix", tiny_teacher_dir, tiny_student_dir)
    edited.tables["phi"][0] += 1
    assert materializer.compute_content_hash(edited) not in hashes
    metadata = materializer.extract_metadata(build("prefix", tiny_teacher_dir, tiny_student_dir))
    assert metadata["strategy"] == "prefix"
    assert (metadata["num_teacher_rows"], metadata["num_student_rows"]) == (608, 400)


def test_a_schedule_keeps_its_stages(
    materializer: Any, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> None:
    import torch

    from distillation.aligners.base import Aligner
    from distillation.aligners.curriculum import ScheduledAligner

    stages = [build(strategy, tiny_teacher_dir, tiny_student_dir) for strategy in ("shared", "projection")]
    schedule = ScheduledAligner(stages, [0.5, 1.0])
    materializer.save(schedule)
    loaded = materializer.load(Aligner)
    assert isinstance(loaded, ScheduledAligner)
    digest = materializer.compute_content_hash(schedule)
    assert materializer.compute_content_hash(loaded) == digest
    for before, after in zip(schedule.stages, loaded.stages, strict=True):
        assert before.tables.keys() == after.tables.keys()
        assert all(torch.equal(table, after.tables[name]) for name, table in before.tables.items())
    assert materializer.compute_content_hash(ScheduledAligner(stages, [0.4, 1.0])) != digest
    stages[0].tables["teacher_of_student"] = stages[0].tables["teacher_of_student"] + 1
    assert materializer.compute_content_hash(schedule) != digest
