"""One student of a comparison: prepared, trained, measured, and what was measured kept beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from distillation.config import CONTROLS
from distillation.errors import InputError, one_line
from distillation.evaluation.result import ModelResult
from distillation.experiment.plan import Entry
from distillation.experiment.result import VALIDATION_BITS
from distillation.fingerprint import digest_of, digest_of_directory
from distillation.models.load import model_digest
from distillation.seals import read_sealed, write_sealed
from distillation.sources import digest_of_sources

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.config import EvaluationSettings, ModelSettings
    from distillation.corpus.corpus import Corpus
    from distillation.teachers.cache.store import TeacherCache

logger = logging.getLogger(__name__)


def prepare_student(
    corpus: Corpus, entry: Entry, aligner: Aligner | None = None, cache: TeacherCache | None = None
) -> Path:
    """Return the job directory of `entry`; aligner and teacher cache are made where they are not given.

    Raises:
        DistillationError: the aligner, the cache or the directory cannot be made.
    """
    from distillation.aligners.kept import make_aligner
    from distillation.training.job import prepare_job

    settings = entry.settings
    if settings.objective.uses_teacher and (aligner is None or entry.kind in CONTROLS):
        aligner = make_aligner(settings)  # a control may name one of its own
    if cache is None and settings.cache is not None and aligner is not None:
        from distillation.teachers.cache.fill import fill_cache, prepare_cache

        folder = Path(settings.cache.output_dir)
        cache = fill_cache(prepare_cache(corpus, settings=settings, aligner=aligner, output_dir=folder))
    return prepare_job(
        corpus,
        settings=settings,
        variant=entry.kind,
        aligner=aligner,
        cache=cache,
        output_dir=Path(settings.training.output_dir),
    )


def measured_student(
    job_dir: Path,
    name: str,
    corpus: Corpus,
    models: ModelSettings,
    evaluation: EvaluationSettings,
    fingerprint: str = "",
) -> ModelResult:
    """Return the figures of the trained student of a job, measured now or kept from an earlier call.

    The file is named by all that the figures depend on: edited code, another teacher or student, another
    held-out set or another `fingerprint`, which stands for the user's own tasks, measures anew. So does,
    with a warning, a file that is damaged.
    """
    from distillation.evaluation.evaluate import measure_student
    from distillation.training.job import read_job

    depends_on: list[Any] = [
        evaluation.model_dump(mode="json"),
        corpus.report.held_out_fingerprint,
        model_digest(models.teacher, "teacher"),
        digest_of_directory(job_dir / "student"),
        digest_of_sources("distillation.evaluation.evaluate", "distillation.corpus.corpus"),
        fingerprint,
    ]
    path = job_dir / f"evaluation-{digest_of(depends_on)}.json"
    if path.exists():
        try:
            kept = ModelResult.model_validate_json(read_sealed(path)["result"])
            return kept.model_copy(update={"name": name})
        except (InputError, KeyError, ValueError) as error:
            logger.warning("%s; the student is measured again", one_line(error))
    result = measure_student(
        name,
        models.student.trained(job_dir / "student"),
        models.teacher,
        corpus.test_texts,
        evaluation,
        decision=read_job(job_dir).decision,
    )
    write_sealed(path, {"result": result.model_dump_json()})
    return result


def training_figures(job_dir: Path, metrics: dict[str, float]) -> dict[str, float]:
    """Return what the training itself measured, under the names of a comparison."""
    from distillation.metrics_log import METRICS_FILE, read_metrics
    from distillation.training.trainer import BEST_METRIC

    lines = read_metrics(job_dir / METRICS_FILE)
    speeds = [
        line["metrics"]["tokens_per_second"] for line in lines if "tokens_per_second" in line["metrics"]
    ]
    return {
        VALIDATION_BITS: metrics[BEST_METRIC],
        "training_tokens_per_second": float(median(speeds)) if speeds else 0.0,
        "training_tokens": float(max((line["tokens"] for line in lines), default=0)),
        "training_seconds": metrics["seconds"],
        "training_steps": metrics["steps"],
    }
