"""One student by one call, without ZenML and MLflow: corpus, aligner, job directory, training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.config import Settings, parse_settings

if TYPE_CHECKING:
    from distillation.corpus.corpus import Corpus


def distil(
    teacher: str | Path,
    student: str | Path,
    texts: str | Path | Iterable[str] | None = None,
    **settings: Any,
) -> Path:
    """Train `student` on `texts` beside `teacher`, and return the folder of the trained student.

    The job directory is made below `training.output_dir`. A call that was killed goes on where it stopped,
    and the same call again returns the same folder at once. No control is trained and nothing is evaluated
    beyond the choice of the checkpoint: that is what the pipeline is for.

    Args:
        teacher: directory or hub repository of the model, or `sample` for the embedded one.
        student: likewise.
        texts: a file or a folder, as `corpus.sources` takes them, or documents as strings. None leaves the
            corpus to the settings, whose default is the documentation of this Python installation.
        settings: sections of the YAML, for example `training={"max_steps": 20}`.

    Raises:
        SettingsError: a setting is unknown or impossible.
        CorpusError: the texts do not satisfy `corpus.contract`.
        DistillationError: as `prepare_job` and `run_job` say.
    """
    from distillation.experiment.plan import Entry
    from distillation.experiment.student import prepare_student
    from distillation.training.run import run_job

    models = dict(settings.get("models", {}))
    for role, path in (("teacher", teacher), ("student", student)):
        models[role] = {**models.get(role, {}), "path": str(path)}
    with tempfile.TemporaryDirectory() as folder:
        if texts is not None:
            place = _file_of(texts, Path(folder))
            source = {"kind": "file", "path": str(place)}
            settings["corpus"] = {**settings.get("corpus", {}), "sources": [source]}
        checked: Settings = parse_settings({**settings, "models": models})
        corpus = _load(checked)
    entry = Entry(variant="distilled", seed=checked.seed, kind="distilled", settings=checked)
    return run_job(prepare_student(corpus, entry)).student_dir


def _file_of(texts: str | Path | Iterable[str], folder: Path) -> Path:
    """Return where `texts` are read from; documents given as strings are written into `folder`."""
    if isinstance(texts, str | Path):
        return Path(texts)
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _load(settings: Settings) -> Corpus:
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_tokenizer

    tokenizers = {
        "teacher": load_tokenizer(settings.models.teacher, "teacher"),
        "student": load_tokenizer(settings.models.student, "student"),
    }
    return load_corpus(settings.corpus, tokenizers)
