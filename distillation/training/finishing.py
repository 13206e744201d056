"""The end of a job: its student out of the best checkpoint, and `status.json`, which says that it is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillation.errors import DistillationError, JobError, one_line
from distillation.files import storing
from distillation.metrics_log import METRICS_FILE
from distillation.seals import digests_of_files, first_fault
from distillation.training.checkpoints import FOLDER, Checkpoint, restore_log, write_student
from distillation.training.job import Job, JobResult, read_status, write_status
from distillation.training.processes import is_first_process, wait_for_everyone

logger = logging.getLogger(__name__)
STUDENT_FOLDER = "student"


def finish(directory: Path, job: Job, checkpoint: Checkpoint) -> JobResult:
    """Make the student of the best checkpoint, and mark the job finished.

    Raises:
        JobError: no evaluation gave a number.
    """
    from distillation.training.trainer import BEST_METRIC

    if checkpoint.best is None or checkpoint.best_metric is None:
        raise JobError(
            f"job directory {directory}: no evaluation gave a number of bits per byte; training diverged: "
            "lower training.learning_rate"
        )
    counts = checkpoint.counts()
    metrics = {
        BEST_METRIC: float(checkpoint.best_metric),
        "steps": float(checkpoint.step),
        "best_step": float(checkpoint.best_step or checkpoint.step),
        "skipped_steps": float(counts["num_skipped"]),
        "targets": float(counts["targets_seen"]),
        "foretold_targets": float(counts["targets_foretold"]),
        "seconds": float(counts["seconds"]),
        **{name: float(count) for name, count in counts["window_counts"].items()},
    }
    if is_first_process():
        digests = write_student(checkpoint.best, directory / STUDENT_FOLDER)
        status = {"state": "finished", "metrics": metrics, "student": digests}
        status["log"] = digests_of_files(directory, [METRICS_FILE])
        write_status(directory, status | decided(job))
    wait_for_everyone(job.decision.device)
    return JobResult(job_dir=directory, student_dir=directory / STUDENT_FOLDER, metrics=metrics)


def finished_result(directory: Path, *, tell: bool = True) -> JobResult | None:
    """Return the result of a finished job whose student is as it was made; None of any other.

    What is damaged is warned of if `tell` is true.
    """
    status = read_status(directory, tell=tell)
    if status.get("state") != "finished":
        return None
    fault = first_fault(directory / STUDENT_FOLDER, status["student"])
    if fault is not None:
        if tell:
            logger.warning(
                "%s: %s; it is made again of the best checkpoint", directory / STUDENT_FOLDER, fault
            )
        return None
    if first_fault(directory, status["log"]) is not None:
        _restore_log(directory, status["log"])
    return JobResult(job_dir=directory, student_dir=directory / STUDENT_FOLDER, metrics=status["metrics"])


def _restore_log(directory: Path, digests: Mapping[str, str]) -> None:
    """Bring back what the log of a finished job has lost; what cannot be had again is told."""
    try:
        with storing(directory):
            restore_log(directory / FOLDER)
        fault = first_fault(directory, digests)
    except DistillationError as error:
        fault = one_line(error)
    if fault is not None:
        logger.warning("%s: %s; its curves lack points", directory, fault)


def decided(job: Job) -> dict[str, Any]:
    """Return how the job is run, as `status.json` has it."""
    return {"decision": job.decision.model_dump(mode="json")}
