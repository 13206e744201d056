"""The request to fill a teacher cache: settings, corpus, aligner, how the teacher is run.

    REQUEST_DIR/  settings.json   decision.json   corpus/  aligner/   inputs.json (their digests, the models')

Its name is the hash of all that, wherever the models lie.
"""

from __future__ import annotations

import functools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.config import Settings, TrainingSettings, parse_settings
from distillation.corpus.inputs import check_inputs, without_places, write_inputs
from distillation.errors import DistillationError, JobError, one_line, reason_of
from distillation.files import new_directory, write_atomically
from distillation.fingerprint import digest_of
from distillation.locks import exclusive
from distillation.models.decision import TeacherDecision, decide_teacher
from distillation.models.load import located, model_digest
from distillation.reading import read_bytes, read_json

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.corpus.corpus import Corpus

logger = logging.getLogger(__name__)
REQUEST = "cache request"
SETTINGS_FILE, DECISION_FILE = "settings.json", "decision.json"


def prepare_cache(
    corpus: Corpus, *, settings: Settings, aligner: Aligner, output_dir: str | Path | None = None
) -> Path:
    """Write a request to fill the cache of `settings` for `corpus`, and return its path.

    Raises:
        JobError: the folder cannot be written.
        ModelError: the teacher's configuration cannot be read.
        SettingsError: the device or the number format asked for is not to be had.
    """
    assert settings.cache is not None, "settings without a cache"
    # All else at its default: students of all seeds share a request.
    kept = {name: getattr(settings, name) for name in ("models", "alignment", "objective", "cache")}
    length = TrainingSettings(max_length=settings.training.max_length)
    kept["models"] = located(settings.models)
    parts = _Parts(Settings(**kept, training=length), decide_teacher(settings.models), corpus, aligner)
    root = Path(output_dir or kept["cache"].output_dir)
    folder = root / "requests" / parts.name
    try:
        if not folder.exists():
            with new_directory(folder, replace=False) as draft:
                parts.write(draft)
        # Another process may have been quicker, and what was there before may be damaged.
        if not parts.are_in(folder):
            with exclusive(folder, "cache request", wait=True):
                parts.write(folder)
    except OSError as error:
        raise JobError(
            f"cache.output_dir = {root}: cannot be written ({one_line(error)}); name a writable folder"
        ) from error
    return folder


@dataclass(frozen=True)
class _Parts:
    """What `prepare_cache` puts into a request."""

    settings: Settings
    decision: TeacherDecision
    corpus: Corpus
    aligner: Aligner

    @functools.cached_property
    def models(self) -> dict[str, str]:
        """Digests of both models."""
        models = self.settings.models
        return {
            "teacher": model_digest(models.teacher, "teacher"),
            "student": model_digest(models.student, "student"),
        }

    @property
    def name(self) -> str:
        """Name of the request."""
        fingerprint = self.corpus.report.train_fingerprint
        return request_name(self.settings, self.decision, self.models, fingerprint, self.aligner)

    def write(self, folder: Path) -> None:
        """Write all of them; the settings, which say that they are there, last."""
        from distillation.corpus.corpus import save_corpus

        save_corpus(self.corpus, folder / "corpus")
        shutil.rmtree(folder / "aligner", ignore_errors=True)
        self.aligner.save(folder / "aligner")
        write_inputs(folder, models=self.models)
        write_atomically(folder / DECISION_FILE, self.decision.model_dump_json(indent=2).encode())
        self._write_settings(folder)

    def are_in(self, folder: Path) -> bool:
        """Say whether a request has them whole; where the models lie is brought up to date."""
        try:
            settings, _ = read_request(folder)
            check_inputs(folder, REQUEST)
        except JobError as error:
            logger.warning("%s", one_line(error))
            return False
        if settings != self.settings:
            self._write_settings(folder)
        return True

    def _write_settings(self, folder: Path) -> None:
        write_atomically(folder / SETTINGS_FILE, self.settings.model_dump_json(indent=2).encode())


def request_name(
    settings: Settings, decision: TeacherDecision, models: dict[str, str], fingerprint: str, aligner: Aligner
) -> str:
    """Return the name of a request."""
    dumped = without_places(settings.model_dump(mode="json", exclude={"cache": {"output_dir"}}))
    return digest_of([dumped, models, decision.identity, fingerprint, aligner.content_digest()])


def read_request(request: Path) -> tuple[Settings, TeacherDecision]:
    """Return the settings, and how the teacher is to be run.

    Raises:
        JobError: the request is damaged.
    """
    try:
        settings: Settings = parse_settings(read_json(request / SETTINGS_FILE))
        return settings, TeacherDecision.model_validate_json(read_bytes(request / DECISION_FILE))
    except (DistillationError, ValueError) as error:
        raise JobError(
            f"{REQUEST} {request}: {SETTINGS_FILE} or {DECISION_FILE} is missing or damaged "
            f"({reason_of(error)}); prepare it again"
        ) from error
