"""What is checked before any work starts, in the few seconds in which a user still looks at the screen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillation.config import (
    CONTROLS,
    ComparisonSettings,
    PromotionSettings,
    Settings,
    TrackingSettings,
    parse_settings,
)
from distillation.errors import SettingsError

_LOG = logging.getLogger(__name__)


def check_distillation(raw: Mapping[str, Any]) -> Settings:
    """Check settings, models, job directory and tracking server; return the settings.

    Raises:
        DistillationError: the first thing that is wrong, one line.
    """
    settings: Settings = parse_settings(raw)
    for control in settings.evaluation.controls:
        if (reason := CONTROLS[control].refusal(settings)) is not None:
            raise SettingsError(reason)
    uri = check_tracking(settings.tracking)
    from distillation.evaluation.task_folder import check_tasks
    from distillation.models.inspect.preflight import check_pair

    check_tasks(settings.evaluation)
    for warning in check_pair(settings):
        _LOG.warning(warning)
    try_outputs(settings, uri)
    send_held_back(settings, uri)
    return settings


def check_comparison(raw: Mapping[str, Any]) -> ComparisonSettings:
    """Check settings, every pair of models, job directory and tracking server; return the settings.

    Raises:
        DistillationError: the first thing that is wrong, one line.
    """
    settings = parse_settings(raw, ComparisonSettings)
    uri = check_tracking(settings.tracking)
    from distillation.evaluation.task_folder import check_tasks
    from distillation.experiment.plan import make_plan
    from distillation.models.inspect.preflight import check_pair

    check_tasks(settings.evaluation)
    plan = make_plan(settings)
    # What the check looks at, once each: the models are the same for most variants.
    checked: set[Any] = set()
    for one in (plan.base, *plan.variants.values()):
        key = (one.models, one.objective, one.training)
        if key not in checked:
            for warning in check_pair(one):
                _LOG.warning(warning)
        checked.add(key)
    try_outputs(settings, uri)
    send_held_back(settings, uri)
    num_students = len(plan.entries())
    search = settings.comparison.search
    trials = f", after a search of {search.num_trials} trials" if search is not None else ""
    print(f"{num_students} students: variants and controls x seeds {list(plan.seeds)}{trials}.")
    return settings


def try_outputs(settings: Settings, uri: str) -> None:
    """Write once to each place that the run ends in, and draw one report.

    What is refused at the end of a run is refused here, before hours of work.

    Raises:
        StorageError: a folder or a file cannot be written.
        InputError: no report can be drawn.
        TrackingError: the tracking server does not take a run, its figures or its files.
    """
    from distillation.report.trial import try_report
    from pipelines.places import check_places
    from tracking.trial import try_tracking

    check_places(settings)
    try_report(settings)
    try_tracking(uri, settings.tracking.experiment)


def send_held_back(settings: Settings, uri: str) -> None:
    """Send metrics that an earlier outage of the server has held back."""
    from tracking.forwarder import send_remaining

    num_sent = send_remaining(Path(settings.training.output_dir), uri)
    if num_sent:
        _LOG.warning("sent the metrics of %d training(s) that an earlier outage had held back", num_sent)


def check_promotion(raw: Mapping[str, Any]) -> PromotionSettings:
    """Check settings, export folder, token and tracking server of a promotion; return the settings.

    Raises:
        DistillationError: the first thing that is wrong, one line.
    """
    settings = parse_settings(raw, PromotionSettings)
    from tracking.export import check_export_folder
    from tracking.hub import check_hub

    check_export_folder(settings)
    check_hub(settings)
    check_tracking(TrackingSettings(experiment=settings.experiment, uri=settings.uri))
    return settings


def check_tracking(tracking: TrackingSettings) -> str:
    """Return the address of the tracking server after it has answered.

    Raises:
        TrackingError: there is none, or it does not answer.
    """
    from tracking.server import check_tracking_server, resolve_tracking_uri

    uri = resolve_tracking_uri(tracking.uri)
    check_tracking_server(uri)
    return uri
