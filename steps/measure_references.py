"""Step `measure_references`: a teacher, and the student as it was before any training."""

from __future__ import annotations

from typing import Annotated

from zenml import step

from distillation.config import EvaluationSettings, ModelSettings
from distillation.evaluation.result import Evaluation
from steps.caching import EVALUATION_CACHE
from steps.console import hide_loading_bars
from steps.types import Corpus


@step(cache_policy=EVALUATION_CACHE)
def measure_references(
    corpus: Corpus, models: ModelSettings, evaluation: EvaluationSettings, fingerprint: str
) -> Annotated[Evaluation, "references"]:
    """Measure both on the held-out documents; `fingerprint` stands for their files."""
    from distillation.evaluation.evaluate import evaluate_models

    hide_loading_bars(models)
    return evaluate_models(
        {"untouched": models.student},
        models.teacher,
        corpus.test_texts,
        evaluation,
        held_out_fingerprint=corpus.report.held_out_fingerprint,
        device=models.device,
    )
