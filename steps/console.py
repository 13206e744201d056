"""What the terminal shows while steps work."""

from __future__ import annotations

from pathlib import Path

from distillation.config import ModelSettings


def hide_loading_bars(models: ModelSettings) -> None:
    """Hide the bars for reading and writing small files, unless a model has to be downloaded."""
    from transformers.utils import logging

    from distillation.models.load import resolve_path

    roles = (("teacher", models.teacher), ("student", models.student))
    if all(Path(resolve_path(reference, role)).is_dir() for role, reference in roles):  # type: ignore[arg-type]
        logging.disable_progress_bar()
