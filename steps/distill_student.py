"""Step `distill_student`: one student, in a job directory that can be killed and gone on with.

The step itself asks for no retry: a job that fails for a reason of its own fails again, and one that was
killed goes on from its last checkpoint when the pipeline is run once more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step

from distillation.aligners.base import Aligner
from distillation.config import Settings
from distillation.metrics_log import METRICS_FILE
from distillation.teachers.cache.store import TeacherCache
from distillation.training.student import Student
from steps.caching import TRAINING_CACHE
from steps.console import hide_loading_bars
from steps.types import Corpus
from tracking.records.recording import metrics_forwarder


@step(cache_policy=TRAINING_CACHE, output_materializers="materializers.student.StudentMaterializer")
def distill_student(
    corpus: Corpus,
    aligner: Aligner | None,
    cache: TeacherCache | None,
    settings: Settings,
    variant: str,
    fingerprint: str,
) -> Annotated[Student, "student"]:
    """Train the student of `variant`, from `cache` if there is one.

    `fingerprint` stands for the files of both models.
    """
    from distillation.aligners.kept import make_aligner
    from distillation.training.job import prepare_job, read_job
    from distillation.training.run import run_job

    hide_loading_bars(settings.models)
    if aligner is None and settings.objective.uses_teacher:
        aligner = make_aligner(settings)  # the one that the settings of a control name
    job_dir = prepare_job(
        corpus,
        settings=settings,
        variant=variant,
        aligner=aligner,
        cache=cache,
        output_dir=Path(settings.training.output_dir),
    )
    with metrics_forwarder(job_dir, settings, variant, corpus.report):
        result = run_job(job_dir)
    return Student(
        directory=result.student_dir,
        variant=variant,
        metrics=result.metrics,
        history=job_dir / METRICS_FILE,
        decision=read_job(job_dir).decision,
    )
