"""Settings of the evaluation: beside which controls, and on what, students are measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from distillation.config.controls import USUAL_CONTROLS, ControlName
from distillation.config.section import LocalPath, Section

EMBEDDED_TASKS = ("cloze", "choice")
"""Tasks that are made from the held-out documents; every other name is lm-eval's or of `task_dir`."""


class EvaluationSettings(Section):
    """How students are compared."""

    controls: tuple[ControlName, ...] = USUAL_CONTROLS
    """Students trained beside the distilled one, from the same start on the same windows."""
    max_length: Annotated[int, Field(ge=16)] = 256
    """Window of the bits-per-byte measure, in tokens."""
    stride: PositiveInt = 192
    """Tokens scored by a window; the others of the window are context."""
    batch_size: PositiveInt = 16
    """Windows evaluated at a time."""
    prompts: tuple[str, ...] = (
        "Return a new list containing",
        "The function raises ValueError if",
        "Parameters\n----------\n",
    )
    """Beginnings that every model continues in the report."""
    num_new_tokens: NonNegativeInt = 48
    """Length of a continuation, in the model's own tokens."""
    tasks: tuple[Annotated[str, Field(min_length=1)], ...] = EMBEDDED_TASKS
    """Tasks run through lm-eval: `cloze` and `choice` are made from the held-out documents, any other is a
    task or group of the library, whose documents come from the hub, or of `task_dir`; [] runs none."""
    task_dir: LocalPath | None = None
    """Folder of lm-eval's YAML files, for tasks of one's own without any network."""
    task_limit: PositiveInt = 200
    """Items of a task, at most: its first ones, the same for every model."""

    @model_validator(mode="after")
    def _stride_within_window(self) -> EvaluationSettings:
        if self.stride >= self.max_length:
            raise ValueError(
                f"stride must be less than max_length ({self.max_length}); lower evaluation.stride"
            )
        return self

    @model_validator(mode="after")
    def _tasks_differ(self) -> EvaluationSettings:
        twice = [name for name in self.tasks if self.tasks.count(name) > 1]
        if twice:
            raise ValueError(f"task {twice[0]} is named twice; name it once in evaluation.tasks")
        return self
