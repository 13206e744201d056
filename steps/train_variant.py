"""Step `train_variant`: one student of a comparison, trained and measured; a failure is a result too.

The step is never taken from ZenML's cache: a job directory that is finished, and figures that are there,
return at once, and a student that failed is tried again by the next run. So a comparison that was killed goes
on where it stopped, and the others finish when one student fails.
"""

from __future__ import annotations

import logging
import math
from typing import Annotated

from zenml import get_step_context, step

from distillation.aligners.base import Aligner
from distillation.config import EvaluationSettings
from distillation.errors import DistillationError, JobError, SearchError, one_line
from distillation.experiment.plan import Entry
from distillation.experiment.result import StudentResult
from distillation.experiment.search import Found
from distillation.stopping import working_on
from distillation.teachers.cache.store import TeacherCache
from steps.console import hide_loading_bars
from steps.types import Corpus
from tracking.records.comparison_runs import student_forwarder
from tracking.records.recording import pipeline_run_spec

_LOG = logging.getLogger(__name__)
PREFIX = "train "
"""How the names of these steps begin."""
MIN_STUDENTS = 3
"""Fewer have not shown yet how long a student takes."""


@step(enable_cache=False)
def train_variant(
    corpus: Corpus,
    aligner: Aligner | None,
    cache: TeacherCache | None,
    found: Found | None,
    entry: Entry,
    evaluation: EvaluationSettings,
    fingerprint: str,
) -> Annotated[StudentResult, "result"]:
    """Train and measure the student of `entry`, from `cache` if there is one.

    `fingerprint` stands for the user's own tasks.
    """
    hide_loading_bars(entry.settings.models)
    number, progress = _progress(entry)
    print(progress)
    try:
        if found is not None and found.failure is not None:
            raise SearchError(found.failure)
        entry = entry.with_found(found.changes if found else None)
        with working_on(f"student {number}"):
            return _train(corpus, aligner, cache, entry, evaluation, fingerprint)
    except Exception as error:  # whatever it is but a stop, the other students are worth having
        is_ours = isinstance(error, DistillationError)
        _LOG.error("%s failed: %s", entry.name, one_line(error), exc_info=None if is_ours else error)
        failure = one_line(error) if is_ours else f"{type(error).__name__}: {one_line(error)}"
        return StudentResult(variant=entry.variant, seed=entry.seed, kind=entry.kind, failure=failure)


def _progress(entry: Entry) -> tuple[int, str]:
    """Return which student this is, and what those before it let expect of those to come."""
    from zenml.client import Client

    run = Client().get_pipeline_run(get_step_context().pipeline_run.id)
    ended = [step.end_time for name, step in run.steps.items() if name.startswith(PREFIX) and step.end_time]
    number = len(ended) + 1
    place = f"Student {number} of {entry.total}: {entry.name}"
    if len(ended) < MIN_STUDENTS or run.start_time is None:
        return number, place
    minutes = (max(ended) - run.start_time).total_seconds() / 60 * (entry.total / len(ended) - 1)
    return number, f"{place}; about {max(1, round(minutes))} min to go"


def _train(
    corpus: Corpus,
    aligner: Aligner | None,
    cache: TeacherCache | None,
    entry: Entry,
    evaluation: EvaluationSettings,
    fingerprint: str,
) -> StudentResult:
    from distillation.experiment.result import VALIDATION_BITS
    from distillation.experiment.student import measured_student, prepare_student, training_figures
    from distillation.training.run import run_job

    job_dir = prepare_student(corpus, entry, aligner, cache)
    with student_forwarder(job_dir, entry, corpus.report, pipeline_run_spec()):
        done = run_job(job_dir, name=entry.name)
    training = training_figures(job_dir, done.metrics)
    _check_finite(training[VALIDATION_BITS])
    result = measured_student(job_dir, entry.variant, corpus, entry.settings.models, evaluation, fingerprint)
    return StudentResult(
        variant=entry.variant,
        seed=entry.seed,
        kind=entry.kind,
        job_dir=str(job_dir),
        result=result,
        training=training,
    )


def _check_finite(bits_per_byte: float) -> None:
    if not math.isfinite(bits_per_byte):
        raise JobError(f"training diverged: bits per byte is {bits_per_byte}; lower training.learning_rate")
