"""Settings of the gate between a finished run and the champion, and of where the champion goes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeFloat, field_validator, model_validator

from distillation.config.controls import BASELINE
from distillation.config.section import LocalPath, Section, TrackingAddress

_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
RegisteredName = Annotated[str, Field(pattern=r"^[^/:@]+$")]
Margin = Annotated[NonNegativeFloat, Field(lt=1.0)]


class PromotionSettings(Section):
    """The gate between a finished run and the champion."""

    experiment: Annotated[str, Field(min_length=1)] = "student-aware-distillation"
    """MLflow experiment whose runs compete."""
    uri: TrackingAddress | None = None
    """MLflow tracking server; None uses the active ZenML stack's experiment tracker."""
    model_name: RegisteredName = "student"
    """Name in the model registry; the champion is `models:/NAME@champion`."""
    metric: str = "distilled.bits_per_byte"
    """Metric that ranks runs; lower is better unless `higher_is_better`."""
    higher_is_better: bool = False
    """Direction of `metric`."""
    must_beat: dict[str, Margin] = Field({f"{BASELINE}.bits_per_byte": 0.005})
    """The same measure of controls of the same run, and by how much, relative, each must be beaten."""
    require_measurable: bool = True
    """`distilled.advantage_low`, the lower end of the 95 % interval of the relative saving over the text-only
    control, must be above 0: an advantage that another draw of documents would undo is none."""
    maximums: dict[str, FiniteFloat] = Field({})
    """Metric to the largest value allowed, such as `distilled.size_on_disk: 5e8` (bytes)."""
    minimums: dict[str, FiniteFloat] = Field({})
    """Metric to the least value allowed, such as a task's accuracy."""
    champion_margin: Margin = 0.0
    """By how much, relative, the current champion must be beaten."""
    export_dir: Annotated[LocalPath, Field(min_length=1)] | None = "outputs/champion"
    """Folder that holds the champion for transformers, replaced at each promotion; None writes none."""
    hub_repository: str | None = None
    """Hub repository that the champion is pushed to, OWNER/NAME; None pushes nowhere. The token comes from
    the environment (HF_TOKEN) or from `hf auth login`, never from here."""
    hub_private: bool = True
    """Whether a hub repository that does not exist yet is made private."""

    @field_validator("hub_repository")
    @classmethod
    def _hub_repository_is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not _REPOSITORY.fullmatch(value):
            raise ValueError("must be OWNER/NAME as the hub writes it, or null")
        return value

    @model_validator(mode="after")
    def _controls_have_the_same_measure(self) -> PromotionSettings:
        measure = self.metric.partition(".")[2]
        for name in self.must_beat:
            if name == self.metric or name.partition(".")[2] != measure:
                raise ValueError(
                    f"must_beat.{name} cannot be compared with metric = {self.metric}: name the same measure "
                    f"of a control, such as {BASELINE}.{measure or 'bits_per_byte'}"
                )
        return self

    @model_validator(mode="after")
    def _push_needs_a_folder(self) -> PromotionSettings:
        if self.hub_repository is not None and self.export_dir is None:
            raise ValueError(
                f"hub_repository = {self.hub_repository!r} needs a folder to push: set export_dir"
            )
        return self
