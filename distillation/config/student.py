"""The settings that a student depends on: those of a distillation less what is measured and recorded."""

from __future__ import annotations

from pydantic import NonNegativeInt, model_validator

from distillation.config.cache import CacheSettings, refusal
from distillation.config.corpus import CorpusSettings
from distillation.config.models import ModelSettings
from distillation.config.objective import AlignmentSettings, ObjectiveSettings
from distillation.config.section import Section
from distillation.config.training import TrainingSettings


class StudentSettings(Section):
    """All that one student is made from. Controls are derived from these of the distilled student."""

    seed: NonNegativeInt = 0
    """Seeds data order and initialisation; same seed, same weights to the bit on a processor."""
    corpus: CorpusSettings = CorpusSettings()
    models: ModelSettings = ModelSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    cache: CacheSettings | None = None
    """Run the teacher once and learn from what it said; None runs it beside the student."""
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _student_weights_are_float32(self) -> StudentSettings:
        dtype = self.models.student.dtype
        if dtype not in ("auto", "float32"):
            raise ValueError(
                f"models.student.dtype = {dtype!r}: small updates vanish in weights of half precision; use "
                f"auto, and training.autocast = {dtype!r} for faster products"
            )
        return self

    @model_validator(mode="after")
    def _attention_maps_need_eager(self) -> StudentSettings:
        for role in ("teacher", "student"):
            chosen = getattr(self.models, role).attention
            if self.objective.terms.attention > 0 and chosen not in ("auto", "eager"):
                raise ValueError(
                    f"models.{role}.attention = {chosen!r} returns no attention maps, which "
                    "objective.terms.attention needs: use auto, or set that weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _cache_fits(self) -> StudentSettings:
        reason = None if self.cache is None else refusal(self.cache, self.objective, self.alignment)
        if reason is not None:
            raise ValueError(reason)
        return self
