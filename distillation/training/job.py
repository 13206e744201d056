"""The job directory: everything a training run needs and everything it leaves.

    JOB_DIR/  job.json (frozen settings + content hashes)   corpus/  aligner/   inputs.json (their digests)
              teacher_cache/ (links, where the student learns from one)
              metrics.jsonl (append-only)   checkpoints/   student/   status.json

Its name is the hash of what determines the result, so the same job is never trained twice and two different
jobs never share a directory. It can be moved: models are named by absolute path or hub name, all else is
inside. Where a model's folder lies is no part of the hash, what is in it is: a job that comes to a machine
where it lies elsewhere has its path changed in `job.json`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from distillation.config import (
    CONTROLS,
    AlignmentSettings,
    CacheSettings,
    ModelSettings,
    ObjectiveSettings,
    Settings,
    TrainingSettings,
)
from distillation.corpus.inputs import check_inputs, without_places, write_inputs
from distillation.errors import InputError, JobError, one_line, reason_of
from distillation.files import new_directory, write_atomically
from distillation.fingerprint import digest_of
from distillation.locks import exclusive
from distillation.models.decision import NOT_HASHED, Decision, decide
from distillation.models.load import located, model_digest
from distillation.reading import read_bytes
from distillation.seals import read_sealed, write_sealed
from distillation.sources import digest_of_sources

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.corpus.corpus import Corpus
    from distillation.teachers.cache.store import TeacherCache

logger = logging.getLogger(__name__)
ENTRY = "distillation.training.run"
"""What training runs through begins here: an edit in any of it makes a new job, an edited report does not."""
CACHE_FOLDER = "teacher_cache"
JOB_FILE, STATUS_FILE = "job.json", "status.json"
RESULT_NEUTRAL = frozenset({"output_dir", "keep_checkpoints", "when_busy"})
"""Training settings that do not change the student."""


class Job(BaseModel):
    """What determines the student, to the last bit on one kind of processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    """`distilled`, or the name of a control."""
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
    targets_may_be_wrong: bool = False
    """Whether it is a control that is taught what is wrong."""

    @property
    def digest(self) -> str:
        """Hash of everything that changes the result; the directory's name."""
        neutral: Any = {"training": set(RESULT_NEUTRAL), "decision": set(NOT_HASHED)}
        content = without_places(self.model_dump(mode="json", exclude=neutral))
        content["cache"] = None if self.cache is None else self.cache.description
        return digest_of(content)

    @property
    def directory_name(self) -> str:
        """Name of the job directory."""
        return f"{self.variant}-{self.digest}"


class JobResult(BaseModel):
    """What a finished job says of itself."""

    model_config = ConfigDict(frozen=True)

    job_dir: Path
    student_dir: Path
    metrics: dict[str, float]


def prepare_job(
    corpus: Corpus,
    *,
    settings: Settings,
    variant: str = "distilled",
    aligner: Aligner | None = None,
    cache: TeacherCache | None = None,
    output_dir: str | Path | None = None,
) -> Path:
    """Write the job directory of one variant, or find the one that is there, and return its path.

    `settings` are the student's own: those of a control are `Control.settings`. A distilled student learns
    from `cache` if there is one. Controls always have the live teacher. Corpus, aligner and `job.json` of a
    directory that is there are written again where they are damaged.

    Raises:
        JobError: the directory cannot be written.
        LockError: it is damaged, and another process is at work on it.
        ModelError: a model's configuration cannot be read.
        SettingsError: the device or a number format asked for is not to be had, or no control is `variant`.
    """
    control = None if variant == "distilled" else CONTROLS[variant]
    objective = settings.objective
    if not objective.uses_teacher:
        aligner = None
    elif aligner is None:
        raise ValueError(f"variant {variant} learns from the teacher and needs an aligner")
    if cache is not None and control is not None:
        raise ValueError(f"variant {variant} does not learn from a cache")
    job = Job(
        variant=variant,
        seed=settings.seed,
        models=located(settings.models),
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
        sources_digest=digest_of_sources(ENTRY),
        cache=None if cache is None else cache.settings,
        cache_digest=None if cache is None else cache.digest,
        targets_may_be_wrong=control is not None and control.targets_may_be_wrong,
    )
    root = Path(output_dir or settings.training.output_dir)
    directory = root / job.directory_name
    parts = _Parts(job, corpus, aligner, cache)
    try:
        if not directory.exists():
            with new_directory(directory, replace=False) as draft:
                parts.write(draft)
        # Another process may have been quicker, and what was there before may be damaged.
        if not parts.are_in(directory):
            with exclusive(directory, "job directory", wait=settings.training.when_busy == "wait"):
                parts.write(directory)
        elif cache is not None:
            _link(cache, directory)  # a shard that was damaged has been made anew
    except OSError as error:
        raise JobError(
            f"training.output_dir = {root}: cannot be written ({one_line(error)}); name a writable folder"
        ) from error
    return directory


@dataclass(frozen=True)
class _Parts:
    """What `prepare_job` puts into a directory."""

    job: Job
    corpus: Corpus
    aligner: Aligner | None
    cache: TeacherCache | None

    def write(self, directory: Path) -> None:
        """Write all of them; `job.json`, which says that they are there, last."""
        from distillation.corpus.corpus import save_corpus

        save_corpus(self.corpus, directory / "corpus")
        if self.aligner is not None:
            shutil.rmtree(directory / "aligner", ignore_errors=True)
            self.aligner.save(directory / "aligner")
        if self.cache is not None:
            _link(self.cache, directory)
        write_inputs(directory)
        _write_job(directory, self.job)

    def are_in(self, directory: Path) -> bool:
        """Say whether a directory has them whole; settings that change no result are brought up to date."""
        try:
            found = read_job(directory)
            check_inputs(directory)
        except JobError as error:
            logger.warning("%s; it is prepared again", one_line(error))
            return False
        job = self.job.model_copy(update={"decision": found.decision})  # with the machine that it was made on
        if found != job:
            _write_job(directory, job)
        return True


def _write_job(directory: Path, job: Job) -> None:
    write_atomically(directory / JOB_FILE, (job.model_dump_json(indent=2) + "\n").encode())


def _link(cache: TeacherCache, directory: Path) -> None:
    """Put the shards of `cache` into a job, so that it needs nothing outside of its directory.

    Raises:
        JobError: a shard is gone.
    """
    from distillation.teachers.cache.store import CacheStore

    try:
        CacheStore(cache.directory).link_into(directory / CACHE_FOLDER, cache.shards)
    except OSError as error:
        raise JobError(
            f"teacher cache {cache.directory}: cannot be read ({one_line(error)}); run the pipeline again"
        ) from error


def read_job(directory: Path) -> Job:
    """Read `job.json`.

    Raises:
        JobError: it is missing or damaged, or not that of the job which the directory is named after.
    """
    try:
        job = Job.model_validate_json(read_bytes(directory / JOB_FILE))
    except (InputError, ValueError) as error:
        raise JobError(
            f"job directory {directory}: {JOB_FILE} is missing or damaged ({reason_of(error)}); "
            "prepare the job again"
        ) from error
    if directory.resolve().name != job.directory_name:
        raise JobError(
            f"job directory {directory}: {JOB_FILE} is that of {job.directory_name}; it was changed, or the "
            "folder renamed: undo that, or prepare the job again"
        )
    return job


def write_status(directory: Path, content: dict[str, Any]) -> None:
    """Write `status.json`."""
    write_sealed(directory / STATUS_FILE, content)


def read_status(directory: Path, *, tell: bool = True) -> dict[str, Any]:
    """Return `status.json`; an empty mapping before the first run, and if it is damaged.

    Damage is warned of if `tell` is true.
    """
    path = directory / STATUS_FILE
    if not path.exists():
        return {}
    try:
        return read_sealed(path)
    except InputError as error:
        if tell:
            logger.warning("%s; what the job has done is looked up in its checkpoints", one_line(error))
        return {}
