"""The job directory: everything a training run needs and everything it leaves.

    JOB_DIR/  job.json (frozen settings + content hashes)   corpus/  aligner/
              teacher_cache/ (links, where the student learns from one)
              metrics.jsonl (append-only)   checkpoints/   student/   status.json

Its name is the hash of what determines the result, so the same job is never trained twice and two different
jobs never share a directory. It can be moved: models are named by path or hub name, all else is inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from distillation.config import (
    DIVERGENCES,
    TEXT_ALONE,
    AlignmentSettings,
    CacheSettings,
    ModelSettings,
    ObjectiveSettings,
    Settings,
    TermWeights,
    TrainingSettings,
)
from distillation.errors import JobError, one_line
from distillation.files import new_directory
from distillation.fingerprint import digest_of, digest_of_sources
from distillation.models import model_digest
from distillation.probing.decision import NOT_HASHED, Decision, decide

if TYPE_CHECKING:
    from distillation.alignment.base import Aligner
    from distillation.corpus import Corpus
    from distillation.teacher.cache import TeacherCache

Variant = Literal["distilled", "text_only", "truncate"]
TRAINING_SOURCES = (
    "distillation.alignment",
    "distillation.evaluation.bits_per_byte",
    "distillation.evaluation.logits",
    "distillation.models",
    "distillation.objectives",
    "distillation.probing.decision",
    "distillation.probing.device",
    "distillation.probing.memory",
    "distillation.teacher",
    "distillation.training",
)
"""What training runs through: an edit in any of it makes a new job, an edited report does not."""
CACHE_FOLDER = "teacher_cache"
COMPLETE = "complete"
"""Empty file that is written into a checkpoint last: without it, the checkpoint is the rest of a kill."""
RESULT_NEUTRAL = frozenset({"output_dir", "keep_checkpoints"})
"""Training settings that do not change the student."""


class Job(BaseModel):
    """What determines the student, to the last bit on one kind of processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    seed: int
    models: ModelSettings
    objective: ObjectiveSettings
    alignment: AlignmentSettings
    training: TrainingSettings
    decision: Decision
    """Device, number formats, attention, chunk sizes; obeyed wherever the job goes on."""
    aligner_name: str | None
    teacher_digest: str | None
    student_digest: str
    corpus_digest: str
    aligner_digest: str | None
    sources_digest: str
    cache: CacheSettings | None = None
    """Of the teacher cache that the student learns from; None for the live teacher."""
    cache_digest: str | None = None

    @property
    def digest(self) -> str:
        """Hash of everything that changes the result; the directory's name."""
        # The cache's own digest stands for its settings.
        neutral: Any = {"training": set(RESULT_NEUTRAL), "cache": True, "decision": set(NOT_HASHED)}
        return digest_of(self.model_dump(mode="json", exclude=neutral))


class JobResult(BaseModel):
    """What a finished job says of itself."""

    model_config = ConfigDict(frozen=True)

    job_dir: Path
    student_dir: Path
    metrics: dict[str, float]


def variant_objective(settings: Settings, variant: Variant) -> ObjectiveSettings:
    """Return the objective of a variant: the settings' own, or that of a control.

    Truncation is a way to make targets, so its control keeps cross-entropy and divergences alone.
    """
    if variant == "truncate":
        active = settings.objective.terms.active
        kept = {name: weight for name, weight in active.items() if name in ("cross_entropy", *DIVERGENCES)}
        terms = TermWeights(**kept) if kept.keys() & set(DIVERGENCES) else ObjectiveSettings().terms
        return settings.objective.model_copy(update={"terms": terms})
    # Everything else at its default: a changed divergence must not retrain the text-only control.
    return ObjectiveSettings(terms=TEXT_ALONE) if variant == "text_only" else settings.objective


def prepare_job(
    corpus: Corpus,
    *,
    settings: Settings,
    variant: Variant = "distilled",
    aligner: Aligner | None = None,
    cache: TeacherCache | None = None,
    output_dir: str | Path | None = None,
) -> Path:
    """Write the job directory of one variant, or find the one that is there, and return its path.

    A distilled student learns from `cache` if there is one. Controls always have the live teacher.

    Raises:
        JobError: the directory cannot be written.
        ModelError: a model's configuration cannot be read.
        SettingsError: the device or a number format asked for is not to be had.
    """
    from distillation.corpus import save_corpus

    objective = variant_objective(settings, variant)
    if not objective.uses_teacher:
        aligner = None
    elif aligner is None:
        raise ValueError(f"variant {variant} learns from the teacher and needs an aligner")
    if cache is not None and variant != "distilled":
        raise ValueError(f"variant {variant} does not learn from a cache")
    job = Job(
        variant=variant,
        seed=settings.seed,
        models=settings.models,
        objective=objective,
        alignment=settings.alignment if aligner is not None else AlignmentSettings(),
        training=settings.training,
        decision=decide(settings, objective),
        aligner_name=aligner.name if aligner is not None else None,
        # Text alone needs the teacher's tokenizer too: all variants train on the same windows.
        teacher_digest=model_digest(settings.models.teacher, "teacher"),
        student_digest=model_digest(settings.models.student, "student"),
        corpus_digest=digest_of([corpus.report.train_fingerprint, corpus.report.held_out_fingerprint]),
        aligner_digest=None if aligner is None else aligner.content_digest(),
        sources_digest=digest_of_sources(*TRAINING_SOURCES),
        cache=None if cache is None else cache.settings,
        cache_digest=None if cache is None else cache.digest,
    )
    root = Path(output_dir or settings.training.output_dir)
    directory = root / f"{variant}-{job.digest}"
    if (directory / "job.json").exists():
        if cache is not None:
            _link(cache, directory)  # a shard that was damaged has been made anew
        return directory
    try:
        with new_directory(directory) as draft:
            save_corpus(corpus, draft / "corpus")
            if aligner is not None:
                aligner.save(draft / "aligner")
            if cache is not None:
                _link(cache, draft)
            (draft / "job.json").write_text(job.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise JobError(
            f"training.output_dir = {root}: cannot be written ({one_line(error)}); name a writable folder"
        ) from error
    return directory


def _link(cache: TeacherCache, directory: Path) -> None:
    """Put the shards of `cache` into a job, so that it needs nothing outside of its directory.

    Raises:
        JobError: a shard is gone.
    """
    from distillation.teacher.cache import CacheStore

    try:
        CacheStore(cache.directory).link_into(directory / CACHE_FOLDER, cache.shards)
    except OSError as error:
        raise JobError(
            f"teacher cache {cache.directory}: cannot be read ({one_line(error)}); run the pipeline again"
        ) from error


def read_job(directory: Path) -> Job:
    """Read `job.json`.

    Raises:
        JobError: it is missing or damaged, or the directory's content is not what it says.
    """
    try:
        return Job.model_validate_json((directory / "job.json").read_text())
    except (OSError, ValueError) as error:
        raise JobError(
            f"job directory {directory}: job.json is missing or damaged; prepare the job again"
        ) from error


def read_status(directory: Path) -> dict[str, Any]:
    """Return `status.json`, or an empty mapping before the first run."""
    path = directory / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}
