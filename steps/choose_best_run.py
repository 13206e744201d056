"""Step `choose_best_run`: the best finished run of an experiment, and the champion that it challenges."""

from __future__ import annotations

import logging
from typing import Annotated

from zenml import step

from distillation.config import PromotionSettings
from tracking.gate import Contest, best_run
from tracking.registry import current_champion, finished_runs
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri
from tracking.versions import mark_retired

_LOG = logging.getLogger(__name__)


@step(enable_cache=False)
def choose_best_run(settings: PromotionSettings) -> Annotated[Contest, "contest"]:
    """Rank the finished runs by the metric. Never cached: runs come and go."""
    recorder = Recorder(resolve_tracking_uri(settings.uri), settings.experiment)
    champion = current_champion(recorder, settings.model_name)
    runs = mark_retired(recorder, finished_runs(recorder), settings.model_name)
    candidate, num_runs = best_run(runs, champion, settings)
    _LOG.info(
        "best of %d comparable run(s): %s with %s = %.4f",
        num_runs,
        candidate.run_name,
        settings.metric,
        candidate.metrics[settings.metric],
    )
    return Contest(candidate=candidate, champion=champion, num_runs=num_runs)
