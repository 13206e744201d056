"""Where the champion goes after it was chosen, and how a person loads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillation.config import PromotionSettings
from tracking.export import Exported, export_champion
from tracking.hub import push_to_hub
from tracking.registry import CHAMPION
from tracking.runs import Recorder


class Publication(BaseModel):
    """Where the champion lies now."""

    model_config = ConfigDict(frozen=True)

    folder: str | None = None
    """Absolute path of the folder for transformers; None where none is asked for."""
    exported: Exported | None = None
    hub_url: str | None = None
    """Address of the hub repository; None where nothing is pushed."""


def publish(recorder: Recorder, settings: PromotionSettings) -> Publication:
    """Write the champion into its folder and push it, as far as the settings ask.

    Raises:
        PromotionError: there is no champion.
        PublishError: the folder or the hub refuses.
        TrackingError: the server failed.
    """
    if settings.export_dir is None:
        return Publication()
    folder = Path(settings.export_dir).absolute()
    exported = export_champion(recorder, settings.model_name, folder)
    url = None if settings.hub_repository is None else push_to_hub(folder, exported, settings)
    return Publication(folder=str(folder), exported=exported, hub_url=url)


def how_to_load(model_name: str, tracking_uri: str, publication: Publication) -> list[str]:
    """Return the lines that say how to load the champion: with MLflow, from the folder, from the hub."""
    uri = f"models:/{model_name}@{CHAMPION}"
    lines = [
        f'Load it: MLFLOW_TRACKING_URI={tracking_uri} python -c "import mlflow; '
        f"print(mlflow.transformers.load_model('{uri}')('The function returns', max_new_tokens=40))\""
    ]
    if publication.folder is not None:
        lines.append(f"Folder:  {publication.folder} (transformers: from_pretrained; card: README.md)")
    if publication.hub_url is not None:
        lines.append(f"Hub:     {publication.hub_url}")
    return lines
