"""Step `check_gate`: a student passes every condition, or the pipeline ends here with the figures."""

from __future__ import annotations

from typing import Annotated

from zenml import step

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from tracking.gate import Contest, GateReport, judge


@step(enable_cache=False)
def check_gate(contest: Contest, settings: PromotionSettings) -> Annotated[GateReport, "gate"]:
    """Judge the candidate.

    Raises:
        PromotionError: a condition fails; one line with both figures.
    """
    report = judge(contest.candidate, contest.champion, settings)
    if not report.passed:
        raise PromotionError(report.refusal())
    return report
