"""Step `promote_student`: registers the student that passed, writes its card, moves the alias."""

from __future__ import annotations

from typing import Annotated

from zenml import step

from distillation.config import PromotionSettings
from tracking.cards import promotion_card
from tracking.gate import Contest, GateReport, Promotion
from tracking.registry import register_champion
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri


@step(enable_cache=False)
def promote_student(
    contest: Contest, gate: GateReport, settings: PromotionSettings
) -> Annotated[Promotion, "promotion"]:
    """Make the candidate the champion, in MLflow's registry and as a version of ZenML's model."""
    recorder = Recorder(resolve_tracking_uri(settings.uri), settings.experiment)
    card = promotion_card(recorder, contest, gate, settings)
    version = register_champion(recorder, contest.candidate, settings.model_name, card)
    set_production(settings.model_name, version, card)
    return Promotion(
        model_name=settings.model_name,
        version=version,
        run_name=contest.candidate.run_name,
        tracking_uri=recorder.uri,
        lines=gate.lines,
    )


def set_production(model_name: str, version: str, card: str) -> None:
    """Give ZenML's model a version of the same number in stage production; the one before is archived."""
    from zenml import log_metadata
    from zenml.client import Client
    from zenml.enums import ModelStages

    client = Client()
    if not client.list_models(name=model_name, size=1).items:
        client.create_model(name=model_name, description="Distilled students that passed the gate.")
    name = f"{model_name}-{version}"
    if not client.list_model_versions(model=model_name, name=name, size=1).items:
        client.create_model_version(model_name, name=name, description=card[:1000])
    client.update_model_version(model_name, name, stage=ModelStages.PRODUCTION, force=True)
    log_metadata(
        metadata={"mlflow_version": version, "model_card": card[:2000]},
        model_name=model_name,
        model_version=name,
    )
