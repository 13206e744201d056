"""Promotion: the best run of an experiment becomes the champion, if it passes the gate.

    zenml pipeline run pipelines.promotion.promotion_pipeline -c configs/promote.yaml -s local
    python -m pipelines.promotion -c configs/promote.yaml champion_margin=0.01
    python -m pipelines.promotion -c configs/promote.yaml --rollback
    python -m pipelines.promotion -c configs/promote.yaml --publish

Nothing here is cached: what is best and who is champion change without any setting changing.
"""

from __future__ import annotations

from typing import Any

from distillation.config import PromotionSettings, parse_settings
from pipelines.checks import check_promotion
from pipelines.guarded import guarded_pipeline
from pipelines.summary import show_promotion
from steps.check_gate import check_gate
from steps.choose_best_run import choose_best_run
from steps.promote_student import promote_student
from steps.publish_student import publish_student


@guarded_pipeline(before=check_promotion, after=show_promotion, enable_cache=False)
def promotion_pipeline(settings: dict[str, Any]) -> None:
    """Promote the best student of an experiment if it passes the gate."""
    checked = parse_settings(settings, PromotionSettings)
    contest = choose_best_run(checked)
    gate = check_gate(contest, checked)
    promotion = promote_student(contest, gate, checked)
    publish_student(promotion, checked)


if __name__ == "__main__":
    from pipelines import promotion
    from pipelines.champion import ACTIONS
    from pipelines.command import run_command

    # By its proper name, not as __main__: ZenML stores where the pipeline and its steps are defined.
    raise SystemExit(run_command(promotion.promotion_pipeline, actions=ACTIONS))
