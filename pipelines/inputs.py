"""Fingerprints of what a run reads besides its settings: models, files, whether the hub answers.

They are parameters of the steps, so that a changed file runs the step again although its path is the same.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from distillation.config import (
    EMBEDDED_TASKS,
    CorpusSettings,
    EvaluationSettings,
    FileSource,
    HubSource,
    ModelSettings,
    Source,
)
from distillation.fingerprint import digest_of, digest_of_directory


def models_fingerprint(models: ModelSettings) -> str:
    """Return the hash of both models' files, or of their names and revisions on the hub."""
    from distillation.models.load import model_digest

    return digest_of([model_digest(models.teacher, "teacher"), model_digest(models.student, "student")])


def machine_fingerprint() -> str:
    """Return the hash of what the probes find out about this machine, apart from free memory."""
    import torch

    from distillation.models.device import processor_bfloat16

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return digest_of([platform.machine(), platform.system(), names, processor_bfloat16()])


def corpus_fingerprint(corpus: CorpusSettings) -> str:
    """Return the hash of the sources' content as far as it is known without reading them.

    A hub source counts with whether the hub answers: a corpus that was only the fallback of an offline hour
    is not taken from the cache once the hub is back.
    """
    from distillation.hub import HubReach

    reach = HubReach(corpus.hub_timeout)
    return digest_of([_source_fingerprint(source, reach.why_unreachable) for source in corpus.sources])


def tasks_fingerprint(evaluation: EvaluationSettings, hub_timeout: float) -> str:
    """Return the hash of lm-eval's version, of the user's own tasks, and of whether the hub answers.

    The hub is asked if a task may come from it: one that an offline hour left out is run once it is back.
    """
    from importlib.metadata import version

    folder = Path(evaluation.task_dir) if evaluation.task_dir is not None else None
    own = digest_of_directory(folder) if folder is not None and folder.is_dir() else None
    parts: list[object] = [version("lm-eval"), own]
    if set(evaluation.tasks) - set(EMBEDDED_TASKS):
        from huggingface_hub import constants

        from distillation.hub import HubReach

        parts.append(constants.HF_HUB_OFFLINE or HubReach(hub_timeout).why_unreachable() is None)
    return digest_of(parts)


def _source_fingerprint(source: Source, why_unreachable: object) -> str:
    if isinstance(source, HubSource):
        from huggingface_hub import constants

        is_reached = constants.HF_HUB_OFFLINE or why_unreachable() is None  # type: ignore[operator]
        return f"hub {is_reached}"
    if isinstance(source, FileSource):
        path = Path(source.path)
        return digest_of_directory(path) if os.path.exists(path) else "missing"
    return f"documentation {platform.python_version()} {_installed_digest()}"


def _installed_digest() -> str:
    """Return the hash of the installed packages, whose docstrings are the embedded corpus."""
    from importlib.metadata import distributions

    # A set: started with `python -m`, this package itself is found twice.
    return digest_of(sorted({f"{one.metadata['Name']}=={one.version}" for one in distributions()}))
