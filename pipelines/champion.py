"""What is done with a champion outside of a promotion: the way back, and writing it out once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillation.config import PromotionSettings
from pipelines.checks import check_promotion
from pipelines.command import Action
from pipelines.summary import print_lines


def roll_back_champion(raw: Mapping[str, Any]) -> None:
    """Give the alias back to the version before, in MLflow, in ZenML, in the folder and on the hub.

    Raises:
        DistillationError: the first thing that is wrong, one line.
    """
    from tracking.aliases import roll_back
    from tracking.publishing import how_to_load, publish
    from tracking.records.stages import mirror_stages

    settings = check_promotion(raw)
    recorder = _recorder(settings)
    done = roll_back(recorder, settings.model_name)
    mirror_stages(recorder, settings.model_name)
    begin = f"Rolled back: version {done.retired.number} (run {done.retired.run_name}) is retired."
    uri = f"models:/{settings.model_name}@champion"
    print_lines([begin, f"Champion: run {done.champion.run_name} is {uri} (version {done.champion.number})."])
    # Last: if it fails, the lines above still say what holds.
    print_lines(how_to_load(settings.model_name, recorder.uri, publish(recorder, settings)))


def publish_champion(raw: Mapping[str, Any]) -> None:
    """Write the champion into its folder and push it to the hub, as after a promotion.

    Raises:
        DistillationError: the first thing that is wrong, one line.
    """
    from tracking.publishing import how_to_load, publish

    settings = check_promotion(raw)
    recorder = _recorder(settings)
    print_lines(how_to_load(settings.model_name, recorder.uri, publish(recorder, settings)))


def _recorder(settings: PromotionSettings) -> Any:
    from tracking.runs import Recorder
    from tracking.server import resolve_tracking_uri

    return Recorder(resolve_tracking_uri(settings.uri), settings.experiment)


ACTIONS = {
    "rollback": Action(roll_back_champion, "Give the alias champion back to the version before, and stop."),
    "publish": Action(publish_champion, "Write the champion to its folder and to the hub, and stop."),
}
"""Options of `python -m pipelines.promotion` and of `distil promote`."""
