"""Schedules: which stage is when, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from alignment_reference import trained_byte_level

from distillation.aligners.base import Aligner
from distillation.aligners.build import build_schedule, load_aligner
from distillation.aligners.curriculum import ScheduledAligner
from distillation.errors import AlignmentError

STAGES = (("shared", 0.25), ("prefix", 0.5), ("learned", 1.0))


def built(*stages: tuple[str, float]) -> Aligner:
    teacher, student = trained_byte_level(420), trained_byte_level(310, split_digits=True)
    return build_schedule(stages, teacher, student, num_teacher_rows=420, num_student_rows=312)


def test_one_stage_is_that_aligner() -> None:
    aligner = built(("prefix", 1.0))
    assert not isinstance(aligner, ScheduledAligner)
    assert aligner.stages == (aligner,)
    assert aligner.stage_at(0.7) == (0, aligner)


@pytest.mark.parametrize(
    ("progress", "index"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.49, 1), (0.5, 2), (0.99, 2), (1.0, 2)]
)
def test_a_stage_ends_where_the_next_begins(progress: float, index: int) -> None:
    aligner = built(*STAGES)
    assert aligner.stage_at(progress) == (index, aligner.stages[index])
    assert aligner.stages[index].name == STAGES[index][0]


def test_saved_and_loaded_to_the_bit(tmp_path: Path) -> None:
    aligner = built(*STAGES)
    aligner.save(tmp_path / "aligner")
    loaded = load_aligner(tmp_path / "aligner").to("cpu")
    assert isinstance(loaded, ScheduledAligner)
    assert (loaded.ends, loaded.details) == ((0.25, 0.5, 1.0), aligner.details)
    for one, other in zip(aligner.stages, loaded.stages, strict=True):
        assert type(one) is type(other)
        assert one.tables.keys() == other.tables.keys()
        assert all(torch.equal(one.tables[name], other.tables[name]) for name in one.tables)


def test_damage_is_one_line(tmp_path: Path) -> None:
    built(*STAGES).save(tmp_path)
    (tmp_path / "2" / "aligner.safetensors").write_bytes(b"")
    with pytest.raises(AlignmentError, match="build the aligner again"):
        load_aligner(tmp_path)
    (tmp_path / "schedule.json").write_text("{")
    with pytest.raises(AlignmentError, match=r"schedule\.json is damaged"):
        load_aligner(tmp_path)
