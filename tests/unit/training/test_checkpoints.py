"""Checkpoints are whole or told of: sealed, found by step, set aside when damaged, rotated without a gap."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillation.errors import InputError, JobError
from distillation.seals import read_sealed, write_sealed
from distillation.training.checkpoints import (
    draft_folder,
    drop_drafts,
    drop_old,
    newest,
    newest_usable,
    seal,
    write_student,
)

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "counts-0.json")


def make(folder: Path, step: int, best: int | None = None, *, sealed: bool = True) -> None:
    """Write a checkpoint as the trainer does."""
    draft = draft_folder(folder) / f"checkpoint-{step}"
    draft.mkdir(parents=True)
    for name in FILES[1:]:
        (draft / name).write_text(f"{name} of step {step}")
    weights = {"a": torch.full((4,), float(step)), "distillation.companion0.b": torch.ones(2)}
    save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
    state = {
        "global_step": step,
        "max_steps": 12,
        "best_global_step": best,
        "best_metric": 2.5,
        "best_model_checkpoint": "/elsewhere/checkpoints/checkpoint-3",
    }
    (draft / "trainer_state.json").write_text(json.dumps(state))
    if sealed:
        seal(folder, step, 1)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap_for_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (truncate, empty, flip_a_bit, Path.unlink, swap_for_a_folder)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", [*FILES, "trainer_state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_set_aside_with_one_line(
    tmp_path: Path, caplog, name: str, damage: Callable[[Path], None]
) -> None:
    make(tmp_path, 3, best=3)
    make(tmp_path, 6, best=3)
    damage(tmp_path / "checkpoint-6" / name)
    with caplog.at_level(logging.WARNING):
        found = newest_usable(tmp_path, 1)
    assert found is not None
    assert found.step == 3
    [record] = caplog.records
    assert "checkpoint-6 cannot be used" in record.getMessage()
    assert name in record.getMessage()
    assert (tmp_path / "damaged-checkpoint-6").is_dir()
    assert newest(tmp_path) == found


def test_where_the_best_one_is_damaged_training_goes_back_before_it(tmp_path: Path, caplog) -> None:
    for step, best in ((3, 3), (6, 6), (9, 6)):
        make(tmp_path, step, best)
    flip_a_bit(tmp_path / "checkpoint-6" / "model.safetensors")
    found = newest_usable(tmp_path, 1)
    assert found is not None
    assert (found.step, found.best) == (3, tmp_path / "checkpoint-3")
    assert len(caplog.records) == 2
    make(tmp_path, 6, best=6)
    found = newest_usable(tmp_path, 1)
    assert found is not None
    assert found.step == 6


def test_where_none_is_whole_it_is_said_that_training_starts_anew(tmp_path: Path, caplog) -> None:
    assert newest_usable(tmp_path, 1) is None
    assert not caplog.records
    make(tmp_path, 3, best=3)
    (tmp_path / "checkpoint-3" / "manifest.json").unlink()
    assert newest_usable(tmp_path, 1) is None
    assert "training starts anew" in caplog.records[-1].getMessage()


def test_the_rest_of_a_kill_is_no_checkpoint(tmp_path: Path, caplog) -> None:
    make(tmp_path, 3, best=3)
    make(tmp_path, 6, best=3, sealed=False)
    (tmp_path / "checkpoint-of-mine").mkdir()
    found = newest_usable(tmp_path, 1)
    assert found is not None
    assert found.step == 3
    assert not caplog.records
    drop_drafts(tmp_path)
    assert not draft_folder(tmp_path).exists()


def test_another_number_of_processes_is_one_line(tmp_path: Path) -> None:
    make(tmp_path, 3, best=3)
    with pytest.raises(JobError, match=r"written by 1 processes.* start 1, or remove"):
        newest_usable(tmp_path, 2)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (3, 6, 9, 12):
        make(tmp_path, step, best=3)
        drop_old(tmp_path, 2, best_step=3)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-3",
        "checkpoint-9",
    ]
    make(tmp_path, 12, best=3)  # trained again
    found = newest_usable(tmp_path, 1)
    assert found is not None
    assert found.has_all_steps


def test_the_student_is_the_checkpoint_without_what_training_needs(tmp_path: Path) -> None:
    make(tmp_path / "checkpoints", 3, best=3)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-3"
    digests = write_student(checkpoint, tmp_path / "student")
    assert [path.name for path in (tmp_path / "student").iterdir()] == ["model.safetensors"] == list(digests)
    assert load_file(tmp_path / "student" / "model.safetensors").keys() == {"a"}
    flip_a_bit(checkpoint / "model.safetensors")
    with pytest.raises(JobError, match="damaged meanwhile"):
        write_student(checkpoint, tmp_path / "student")
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_a_sealed_file_is_believed_only_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    content = {"state": "finished", "metrics": {"held_out": 2.5, "steps": float("inf")}}
    write_sealed(path, content)
    assert read_sealed(path) == content
    path.write_text(path.read_text().replace("2.5", "2.4"))
    with pytest.raises(InputError, match="not what was written"):
        read_sealed(path)
