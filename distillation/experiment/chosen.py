"""The chosen student of a comparison beside the controls of its seed, as a comparison of one seed.

What is made for one distillation, its report, its model card, its gate, then serves here as well.
"""

from __future__ import annotations

from typing import Any

from distillation.config import BASELINE, CONTROLS, Changes, EvaluationSettings, Settings, change_settings
from distillation.evaluation.evaluate import with_gap_closed
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation, ModelResult
from distillation.experiment.plan import Plan
from distillation.experiment.result import Comparison, StudentResult


def chosen_student(comparison: Comparison) -> StudentResult:
    """Return the chosen student.

    Raises:
        ValueError: every variant failed, so that none is chosen.
    """
    if comparison.chosen is None or comparison.chosen_seed is None:
        raise ValueError("no variant has a student")
    return comparison.student(comparison.chosen, comparison.chosen_seed)


def chosen_settings(comparison: Comparison, plan: Plan, found: Changes | None) -> Settings:
    """Return all settings that the chosen student was trained with."""
    name, seed = comparison.chosen, comparison.chosen_seed
    settings = plan.variants[name] if name in plan.variants else change_settings(plan.base, found or {})
    return settings.model_copy(update={"seed": seed})


def chosen_students(comparison: Comparison) -> dict[str, StudentResult]:
    """Return the chosen student and the controls of its seed that have a result, by their usual names."""
    chosen = chosen_student(comparison)
    control = comparison.variant(chosen.variant).control
    names = {**{name: name for name in CONTROLS}, BASELINE: control, DISTILLED: chosen.variant}
    found = {}
    for name, variant in names.items():
        for one in comparison.students:
            if one.variant == variant and one.seed == chosen.seed and one.result is not None:
                found[name] = one
    return found


def chosen_evaluation(comparison: Comparison, settings: EvaluationSettings, **more: Any) -> Evaluation:
    """Return the evaluation of the chosen student; `more` are further fields of it."""
    students = chosen_students(comparison)
    results: dict[str, ModelResult] = {"untouched": comparison.untouched}
    for name, one in students.items():
        assert one.result is not None
        results[name] = one.result.model_copy(update={"name": name})
    results[TEACHER] = comparison.teachers[comparison.variant(comparison.chosen or "").teacher]
    return Evaluation(
        results=with_gap_closed(results),
        held_out_fingerprint=comparison.held_out_fingerprint,
        num_held_out_documents=comparison.num_held_out_documents,
        num_held_out_bytes=comparison.num_held_out_bytes,
        device=comparison.device,
        settings=settings,
        **more,
    )
