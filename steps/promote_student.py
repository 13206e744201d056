"""Step `promote_student`: registers the student that passed, writes its card, settles the aliases."""

from __future__ import annotations

from typing import Annotated

from zenml import step

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from tracking.cards import promotion_card
from tracking.gate import Contest, GateReport, Promotion, challenger_refusal, judge
from tracking.records.stages import mirror_stages
from tracking.registration import promote
from tracking.registry import current_champion
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri


@step(enable_cache=False)
def promote_student(
    contest: Contest, gate: GateReport, settings: PromotionSettings
) -> Annotated[Promotion, "promotion"]:
    """Make the candidate the champion, or the challenger, in MLflow and in ZenML.

    Raises:
        PromotionError: it lost to the champion of now, who may have come while this pipeline ran.
    """
    recorder = Recorder(resolve_tracking_uri(settings.uri), settings.experiment)
    card = promotion_card(recorder, contest, gate, settings)
    standing = promote(recorder, contest.candidate, settings, card)
    mirror_stages(recorder, settings.model_name)
    if not standing.is_champion:
        champion = current_champion(recorder, settings.model_name)
        report = judge(contest.candidate, champion, settings)
        raise PromotionError(challenger_refusal(report, settings, standing.version))
    return Promotion(
        model_name=settings.model_name,
        version=str(standing.version),
        run_name=contest.candidate.run_name,
        tracking_uri=recorder.uri,
        lines=gate.lines,
    )
