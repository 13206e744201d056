"""The controls: students that are trained beside the distilled one, so that its figures mean something.

A control is one class. It says which settings it changes, how tables, pages and figures show it, and what a
sentence about it says. Settings, plan, job, evaluation, report and tracking ask `CONTROLS`; none of them
knows a control by its name, except for `BASELINE`, which all savings and gaps are counted from.

Controls need nothing but settings, so a wrong name in a YAML is answered without loading any library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator

from distillation.config.objective import (
    DIVERGENCES,
    TEXT_ALONE,
    AlignmentSettings,
    ObjectiveSettings,
    TermWeights,
)
from distillation.config.student import StudentSettings
from distillation.registry import Component, Registry

Derived = TypeVar("Derived", bound=StudentSettings)
Dashes = str | tuple[int, tuple[float, ...]]


class Control(Component, ABC):
    """A student with the start, the text and the windows of the distilled one, and one thing changed."""

    title: ClassVar[str]
    """What tables and figures call it."""
    explanation: ClassVar[str]
    """What it is, in half a sentence."""
    action: ClassVar[str] = ""
    """What was done to it, as the subject of a sentence: `ACTION gives 2.1: worse than no teacher`. Without
    one the report says no such sentence."""
    colour: ClassVar[str | None] = None
    """Its colour in every figure; None takes one of those for other models."""
    dashes: ClassVar[Dashes] = "-"
    """Its curves, as matplotlib draws lines."""
    targets_may_be_wrong: ClassVar[bool] = False
    """Whether it is taught what is wrong, to show what that does: a training that gets worse, or has few
    targets, then goes on."""

    @classmethod
    @abstractmethod
    def changes(cls, distilled: StudentSettings) -> dict[str, Any]:
        """Return the sections of settings that are other than those of the distilled student.

        A section that the control does not depend on is returned with its defaults: a change of it must not
        train the control again.
        """

    @classmethod
    def settings(cls, distilled: Derived) -> Derived:
        """Return all settings of the control beside a distilled student.

        Controls always have the live teacher: a second cache, for targets that nobody wants, would cost more
        than it saves.
        """
        return distilled.model_copy(update={"cache": None, **cls.changes(distilled)})

    @classmethod
    def refusal(cls, distilled: StudentSettings) -> str | None:
        """Return why it is no control for a distilled student, with the remedy; None where it is one."""
        return None


CONTROLS: Registry[Control] = Registry("control")


@CONTROLS.register("text_only")
class TextOnly(Control):
    """Cross-entropy on the text and no teacher. It keeps both models: they decide where windows are cut."""

    title = "text-only student"
    explanation = "same start, same text, same steps, no teacher"
    colour = "#e69f00"
    dashes = (0, (5, 2))

    @classmethod
    def changes(cls, distilled: StudentSettings) -> dict[str, Any]:
        """See `Control.changes`."""
        return {"objective": ObjectiveSettings(terms=TEXT_ALONE), "alignment": AlignmentSettings()}


@CONTROLS.register("truncate")
class Truncate(Control):
    """The teacher's logits cut to the student's size, as if both had one vocabulary.

    Truncation is a way to make targets, so cross-entropy and divergences alone are kept of the objective.
    """

    title = "truncated logits"
    explanation = "the teacher's logits cut to the student's size, as naive scripts do"
    action = "Cutting the teacher's logits to the student's vocabulary"
    colour = "#cc79a7"
    dashes = (0, (1.5, 1.5))
    targets_may_be_wrong = True

    @classmethod
    def changes(cls, distilled: StudentSettings) -> dict[str, Any]:
        """See `Control.changes`."""
        active = distilled.objective.terms.active
        kept = {name: weight for name, weight in active.items() if name in ("cross_entropy", *DIVERGENCES)}
        terms = TermWeights(**kept) if kept.keys() & set(DIVERGENCES) else ObjectiveSettings().terms
        return {
            "objective": distilled.objective.model_copy(update={"terms": terms}),
            "alignment": AlignmentSettings(strategy="truncate"),
        }

    @classmethod
    def refusal(cls, distilled: StudentSettings) -> str | None:
        """See `Control.refusal`."""
        if distilled.alignment.strategy != "truncate":
            return None
        return (
            "alignment.strategy = 'truncate': that is the control itself; take truncate out of "
            "evaluation.controls, or use prefix"
        )


BASELINE = TextOnly.name
"""The control that savings and gaps are counted from: what the text teaches without a teacher."""
USUAL_CONTROLS = tuple(CONTROLS)
"""Those that a run trains where its settings name none."""
ControlName = Annotated[str, AfterValidator(CONTROLS.checked)]
