"""All settings of a pipeline, and the way from a YAML's mapping to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import NonNegativeInt, ValidationError, model_validator

from distillation.config.cache import CacheSettings, refusal
from distillation.config.corpus import CorpusSettings
from distillation.config.models import ModelSettings
from distillation.config.objective import AlignmentSettings, ObjectiveSettings
from distillation.config.section import Section
from distillation.config.training import EvaluationSettings, TrainingSettings
from distillation.errors import SettingsError
from distillation.explanations import explain


class TrackingSettings(Section):
    """Where runs are recorded."""

    experiment: str = "student-aware-distillation"
    """MLflow experiment, and name of the registered model's family."""
    uri: str | None = None
    """MLflow tracking server; None uses the active ZenML stack's experiment tracker."""
    system_metrics: bool = True
    """Record the load of processor, memory and GPU during each training; the GPU needs `nvidia-ml-py`."""


class Settings(Section):
    """All settings of the distillation pipeline."""

    seed: NonNegativeInt = 0
    """Seeds data order and initialisation; same seed, same weights to the bit on a processor."""
    corpus: CorpusSettings = CorpusSettings()
    models: ModelSettings = ModelSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    cache: CacheSettings | None = None
    """Run the teacher once and learn from what it said; None runs it beside the student."""
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _attention_maps_need_eager(self) -> Settings:
        for role in ("teacher", "student"):
            chosen = getattr(self.models, role).attention
            if self.objective.terms.attention > 0 and chosen not in ("auto", "eager"):
                raise ValueError(
                    f"models.{role}.attention = {chosen!r} returns no attention maps, which "
                    "objective.terms.attention needs: use auto, or set that weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _cache_fits(self) -> Settings:
        reason = None if self.cache is None else refusal(self.cache, self.objective, self.alignment)
        if reason is not None:
            raise ValueError(reason)
        return self


SectionType = TypeVar("SectionType", bound=Section)


def parse_settings(raw: Mapping[str, Any], kind: type[SectionType] = Settings) -> SectionType:  # type: ignore[assignment]
    """Check `raw` and return the frozen settings of `kind`.

    Raises:
        SettingsError: one line that names each faulty setting, its value and the remedy.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as report:
        raise SettingsError(explain(kind, report)) from None
