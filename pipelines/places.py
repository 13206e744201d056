"""Where a pipeline writes: tried before any work, and named in the one line that a disk's refusal gets."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from distillation.config import PromotionSettings, Section, Settings
from distillation.files import refusal_of, storage_error


def zenml_directory() -> Path:
    """Return the folder of ZenML's configuration, of its local database and of the local artifact store."""
    from zenml.utils.io_utils import get_global_config_directory

    return Path(get_global_config_directory())


def places_of(settings: Section | None = None) -> dict[str | Path, str | None]:
    """Return the files and folders that a run with these settings writes, and what chose each of them."""
    places: dict[str | Path, str | None] = {}
    tracking: str | None = None
    if isinstance(settings, Settings):
        places[settings.training.output_dir] = "training.output_dir"
        places[Path(settings.training.output_dir).parent] = "the folder of training.output_dir"
        if settings.cache is not None:
            places[settings.cache.output_dir] = "cache.output_dir"
        tracking = settings.tracking.uri
    if isinstance(settings, PromotionSettings):
        tracking = settings.uri
        if settings.export_dir is not None:
            places[settings.export_dir] = "export_dir"
    if tracking is not None and tracking.startswith("sqlite:///"):
        places[tracking.removeprefix("sqlite:///")] = "tracking.uri"
    zenml = zenml_directory()
    with suppress(Exception):  # the store itself may be what cannot be opened
        places |= _places_of_stack()
    for database in (*zenml.glob("**/*.db"), zenml / "config.yaml"):
        places[database] = "ZENML_CONFIG_PATH"
    places[zenml] = "ZENML_CONFIG_PATH"
    with suppress(OSError):
        places[tempfile.gettempdir()] = "TMPDIR"
    places[os.curdir] = None
    return places


def check_places(settings: Section) -> None:
    """Write to each place that a setting chose, and take it away again.

    Raises:
        StorageError: one cannot be written.
    """
    for place, setting in places_of(settings).items():
        refused = refusal_of(Path(place)) if setting is not None else None
        if refused is not None:
            named = OSError(refused.errno, refused.strerror, str(place))
            raise storage_error(named, {place: setting}) or refused


def _places_of_stack() -> dict[str | Path, str | None]:
    from zenml.client import Client

    store: Any = Client().active_stack.artifact_store
    is_here = bool(getattr(store.config, "is_local", False))
    return {store.path: "the artifact store of ZenML's stack"} if is_here else {}
