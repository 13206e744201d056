"""Step `check_gate`: a student passes what is about itself, or the pipeline ends here with the figures."""

from __future__ import annotations

from typing import Annotated

from zenml import step

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from tracking.gate import Contest, GateReport, judge


@step(enable_cache=False)
def check_gate(contest: Contest, settings: PromotionSettings) -> Annotated[GateReport, "gate"]:
    """Judge the candidate. One that loses to the champion alone goes on: it becomes the challenger.

    Raises:
        PromotionError: a condition about the student itself fails; one line with both figures.
    """
    report = judge(contest.candidate, contest.champion, settings)
    if not report.may_challenge:
        raise PromotionError(report.refusal())
    return report
