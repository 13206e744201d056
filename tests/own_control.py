"""A control as a user would write one: a class and its name, and nothing else anywhere."""

from __future__ import annotations

from typing import Any

from distillation.config import CONTROLS, Control, StudentSettings


class HalfText(Control):
    """Text alone, on half of the steps."""

    title = "half-trained student"
    explanation = "text alone, on half of the steps"
    action = "Training on text alone for half of the steps"
    colour = "#123456"

    @classmethod
    def changes(cls, distilled: StudentSettings) -> dict[str, Any]:
        training = distilled.training
        half = training.model_copy(update={"max_steps": (training.max_steps or 2) // 2})
        return {**CONTROLS["text_only"].changes(distilled), "training": half}


def register(monkeypatch: Any) -> None:
    """Register it for one test."""
    monkeypatch.setattr(CONTROLS, "components", dict(CONTROLS.components))
    CONTROLS.register("half_text")(HalfText)
