"""Checkpoints of a job, and the student that is made of the best one.

    checkpoints/checkpoint-STEP/   what transformers' Trainer writes, counts-PROCESS.json, a copy of
                                   metrics.jsonl, manifest.json
                .draft/            one that is being written, or the rest of a kill

A checkpoint is written as a draft, synced, sealed by a manifest with the SHA-256 of every file, and renamed.
Nothing is read out of one before its files are compared with the manifest. One that is damaged is set aside,
and the newest whole one before it is used: training from there again gives the same result. The best
checkpoint is found by its step, inside the job, never by a path that a file names.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillation.errors import InputError, JobError, reason_of
from distillation.files import new_directory, sync_directory, sync_tree
from distillation.metrics_log import METRICS_FILE, restore
from distillation.reading import read_json
from distillation.seals import digests_of_files, first_fault, read_sealed, sha256_of, write_sealed

logger = logging.getLogger(__name__)
COMPANIONS = "distillation"
"""Name, among the student's modules, of what is trained beside it and is no part of it."""
FOLDER, DRAFTS = "checkpoints", ".draft"
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-([1-9][0-9]{0,17})")
_OF_TRAINING = re.compile(
    r".*\.(pt|pth|bin)|trainer_state\.json|counts-[0-9]+\.json|manifest\.json|metrics\.jsonl"
)
"""Files of a checkpoint that are no part of the student."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    step: int
    max_steps: int
    best_step: int | None
    """Step of the best checkpoint so far; None if no evaluation gave a number."""
    best_metric: float | None

    @property
    def has_all_steps(self) -> bool:
        """Nothing is left to be trained."""
        return self.step >= self.max_steps

    @property
    def best(self) -> Path | None:
        """The best checkpoint so far."""
        return None if self.best_step is None else self.path.with_name(f"checkpoint-{self.best_step}")

    def counts(self, process: int = 0) -> dict[str, Any]:
        """Return what a process of the training has counted up to here."""
        return read_json(self.path / counts_file(process))


def counts_file(process: int) -> str:
    """Return the name of the file in which a process keeps what it has counted."""
    return f"counts-{process}.json"


def draft_folder(folder: Path) -> Path:
    """Return where checkpoints of the folder `checkpoints/` are written."""
    return folder / DRAFTS


def seal(folder: Path, step: int, num_processes: int) -> None:
    """Put the draft of a checkpoint in its place, with a copy of the log and the digests of its files."""
    name = f"checkpoint-{step}"
    draft, final = draft_folder(folder) / name, folder / name
    if (log := folder.parent / METRICS_FILE).exists():
        shutil.copyfile(log, draft / METRICS_FILE)
    sync_tree(draft)
    write_sealed(draft / MANIFEST, {"num_processes": num_processes, "files": digests_of_files(draft)})
    if final.exists():  # a step that is trained again
        _remove(final)
    draft.rename(final)
    sync_directory(folder)


def drop_old(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest `keep` and the best one."""
    for step in _steps(folder)[keep:]:
        if step != best_step:
            _remove(folder / f"checkpoint-{step}")


def drop_drafts(folder: Path) -> None:
    """Remove what a kill left."""
    shutil.rmtree(draft_folder(folder), ignore_errors=True)


def newest_usable(folder: Path, num_processes: int) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, and whose best one is; others are set aside with a warning.

    Args:
        folder: `checkpoints/` of a job.
        num_processes: that are going to train.

    Raises:
        JobError: it was written by another number of processes.
    """
    steps = _steps(folder)
    for step in steps:
        try:
            checkpoint = _read(folder, step)
            if checkpoint.best_step not in (None, step):
                _read(folder, checkpoint.best_step)  # type: ignore[arg-type]
        except InputError as error:
            _set_aside(folder / f"checkpoint-{step}", str(error))
            continue
        count = read_sealed(checkpoint.path / MANIFEST)["num_processes"]
        if count != num_processes and not checkpoint.has_all_steps:
            raise JobError(
                f"{checkpoint.path}: was written by {count} processes, and another number trains another "
                f"student; start {count}, or remove {folder} to train anew"
            )
        return checkpoint
    if steps:
        logger.warning("%s: no whole checkpoint is left; training starts anew", folder)
    return None


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint unread, where another process has just called `newest_usable`."""
    steps = _steps(folder)
    return _parsed(folder / f"checkpoint-{steps[0]}", steps[0]) if steps else None


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    return next(iter(_steps(folder)), 0)


def restore_log(folder: Path) -> None:
    """Bring back lines of `metrics.jsonl` that were damaged, out of the newest checkpoint.

    Raises:
        InputError: the log cannot be read.
    """
    step = newest_step(folder)
    if step:
        restore(folder.parent / METRICS_FILE, folder / f"checkpoint-{step}" / METRICS_FILE)


def write_student(checkpoint: Path, final: Path) -> dict[str, str]:
    """Make the student of a whole checkpoint, in place at once, and return the digests of its files.

    It is what the checkpoint holds less what only training needs.

    Raises:
        JobError: the checkpoint was damaged meanwhile.
    """
    digests = read_sealed(checkpoint / MANIFEST)["files"]
    names = [name for name in digests if not _OF_TRAINING.fullmatch(name)]
    with new_directory(final) as draft:
        for name in names:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / name, draft / name)
            if sha256_of(draft / name) != digests[name]:
                raise JobError(f"{checkpoint / name}: was damaged meanwhile; run the job again")
        _drop_companions(draft)
        student = digests_of_files(draft)
    return student


def _drop_companions(student: Path) -> None:
    """Take what was trained beside the student out of its weights."""
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    for path in student.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata()
        if any(_is_companion(name) for name in names):
            kept = {name: tensor for name, tensor in load_file(path).items() if not _is_companion(name)}
            save_file(kept, path, metadata=metadata)
    for path in student.glob("*.safetensors.index.json"):
        index = read_json(path)
        index["weight_map"] = {
            name: file for name, file in index["weight_map"].items() if not _is_companion(name)
        }
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_companion(name: str) -> bool:
    return name.startswith(f"{COMPANIONS}.")


def _steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints, whole or not, newest first."""
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*"))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def _read(folder: Path, step: int) -> Checkpoint:
    """Return a checkpoint after comparing every file with its manifest.

    Raises:
        InputError: it is damaged or not there.
    """
    path = folder / f"checkpoint-{step}"
    if not path.is_dir():
        raise InputError(f"the best one before it, {path.name}, is missing")
    if not (path / MANIFEST).exists():
        raise InputError(f"{path.name}: {MANIFEST} is missing")
    try:
        files = read_sealed(path / MANIFEST)["files"]
    except (InputError, KeyError) as error:
        raise InputError(f"{path.name}: {MANIFEST} is not what was written") from error
    fault = first_fault(path, files)
    if fault is not None:
        raise InputError(f"{path.name}: {fault}")
    return _parsed(path, step)


def _parsed(path: Path, step: int) -> Checkpoint:
    state = read_json(path / TRAINER_STATE)
    best_step, best_metric = state.get("best_global_step"), state.get("best_metric")
    if state.get("global_step") != step or not isinstance(state.get("max_steps"), int):
        raise InputError(f"{path / TRAINER_STATE}: is not that of step {step}")
    return Checkpoint(path, step, state["max_steps"], best_step, best_metric if best_step else None)


def _set_aside(path: Path, reason: str) -> None:
    aside = path.with_name(f"damaged-{path.name}")
    logger.warning(
        "%s cannot be used (%s); it is set aside as %s", path, reason_of(InputError(reason)), aside.name
    )
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _remove(path: Path) -> None:
    """Remove a folder so that a kill leaves no half of it under its name."""
    drafts = draft_folder(path.parent)
    drafts.mkdir(exist_ok=True)
    gone = drafts / f"removed-{path.name}"
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)
