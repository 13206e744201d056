"""From the figures of every student to a comparison of the variants. No model is loaded here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distillation.config import BASELINE, DIVERGENCES, FOUND, Changes, Settings, change_settings
from distillation.evaluation.result import TEACHER, Evaluation, ModelResult
from distillation.experiment.plan import FOUND_CONTROL, Plan, settings_for
from distillation.experiment.result import VALIDATION_BITS, Comparison, StudentResult, VariantSummary
from distillation.experiment.statistics import Estimate, document_draws, estimate

Figure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From the bits per byte of student, control and teacher to a figure; on values or on draws."""


def saving(student: np.ndarray, control: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the relative saving over the control."""
    return (control - student) / control


def gap_closed(student: np.ndarray, control: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the share of the gap between control and teacher."""
    return (control - student) / (control - teacher)


def summarise(
    students: Sequence[StudentResult],
    references: Mapping[str, Evaluation],
    plan: Plan,
    *,
    found: Changes | None = None,
) -> Comparison:
    """Return the comparison of `students`.

    Args:
        students: in the order of the plan; those that failed too.
        references: path of a teacher -> evaluation that holds it and the untouched student.
        plan: variants, controls, and which is compared with which.
        found: changes that a search found, where there was one.
    """
    base = next(iter(references.values()))
    names = [*plan.controls, *plan.variants]
    if found is not None:
        names += [name for name in (FOUND_CONTROL, FOUND) if any(one.variant == name for one in students)]
    tables = {name: _Table.of([one for one in students if one.variant == name]) for name in names}
    chosen = _chosen(tables, [name for name in names if not is_control(name, plan)], plan.seeds)
    summaries = []
    for name in names:
        changes = (found or {}) if name in (FOUND, FOUND_CONTROL) else plan.changes.get(name, {})
        used = plan.controls.get(name) or change_settings(plan.base, changes)
        used = settings_for(BASELINE, used) if name == FOUND_CONTROL else used
        teacher = references[used.models.teacher.path].results[TEACHER]
        control = tables.get(plan.control_of.get(name, ""))
        summaries.append(
            _summary(name, tables[name], control, teacher, tables.get(chosen or ""), used, changes, plan)
        )
    return Comparison(
        seeds=plan.seeds,
        variants=tuple(summaries),
        students=tuple(students),
        teachers={path: one.results[TEACHER] for path, one in references.items()},
        untouched=base.results["untouched"],
        chosen=chosen,
        chosen_seed=tables[chosen].best_seed() if chosen is not None else None,
        held_out_fingerprint=base.held_out_fingerprint,
        num_held_out_documents=base.num_held_out_documents,
        num_held_out_bytes=base.num_held_out_bytes,
        device=base.device,
    )


def is_control(name: str, plan: Plan) -> bool:
    """Tell whether a student is there to be compared with."""
    return name in plan.controls or name == FOUND_CONTROL


class _Table:
    """The students of one variant by seed, with their draws."""

    def __init__(self, by_seed: dict[int, StudentResult], failures: dict[int, str]) -> None:
        self.by_seed = by_seed
        self.failures = failures
        self._draws: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, students: Sequence[StudentResult]) -> _Table:
        return cls(
            {one.seed: one for one in students if one.result is not None},
            {one.seed: one.failure or "" for one in students if one.result is None},
        )

    def result(self, seed: int) -> ModelResult:
        result = self.by_seed[seed].result
        assert result is not None
        return result

    def bits(self, seeds: Sequence[int]) -> np.ndarray:
        """Return the bits per byte (S,)."""
        return np.array([self.result(seed).bits_per_byte for seed in seeds])

    def draws(self, seeds: Sequence[int]) -> np.ndarray:
        """Return the bits per byte on draws of the documents (D, S)."""
        for seed in seeds:
            if seed not in self._draws:
                result = self.result(seed)
                self._draws[seed] = document_draws(result.per_document_bits, result.per_document_bytes)
        return np.stack([self._draws[seed] for seed in seeds], axis=1)

    def validation(self) -> float:
        return float(np.mean([one.training.get(VALIDATION_BITS, math.nan) for one in self.by_seed.values()]))

    def best_seed(self) -> int:
        return min(self.by_seed, key=lambda seed: self.by_seed[seed].training.get(VALIDATION_BITS, math.inf))


def _chosen(tables: Mapping[str, _Table], variants: Sequence[str], seeds: Sequence[int]) -> str | None:
    """Return the variant with the fewest validation bits among those with the most seeds."""
    able = [name for name in variants if tables[name].by_seed]
    whole = [name for name in able if len(tables[name].by_seed) == len(seeds)]
    return min(whole or able, key=lambda name: tables[name].validation(), default=None)


def _summary(
    name: str,
    table: _Table,
    control: _Table | None,
    teacher: ModelResult,
    best: _Table | None,
    settings: Settings,
    changes: Changes,
    plan: Plan,
) -> VariantSummary:
    seeds = tuple(seed for seed in plan.seeds if seed in table.by_seed)
    common: dict[str, Any] = {
        "name": name,
        "is_control": is_control(name, plan),
        "control": plan.control_of.get(name),
        "teacher": settings.models.teacher.path,
        "description": describe(settings),
        "changes": changes,
        "seeds": seeds,
        "failures": table.failures,
    }
    if not seeds:
        return VariantSummary(**common)
    beside_best = (
        _paired(saving, table, best, teacher, plan) if best is not None and best is not table else None
    )
    return VariantSummary(
        **common,
        bits_per_byte=estimate(list(table.bits(seeds)), table.draws(seeds)),
        saving=_paired(saving, table, control, teacher, plan),
        gap_closed=_paired(gap_closed, table, control, teacher, plan),
        behind_best=beside_best,
        validation_bits_per_byte=table.validation(),
        measures=_measures(table, seeds),
    )


def _paired(
    figure: Figure, table: _Table, other: _Table | None, teacher: ModelResult, plan: Plan
) -> Estimate | None:
    """Return a figure of students beside others of the same seeds; None without a seed in common."""
    if other is None:
        return None
    seeds = [seed for seed in plan.seeds if seed in table.by_seed and seed in other.by_seed]
    if not seeds:
        return None
    teacher_draws = document_draws(teacher.per_document_bits, teacher.per_document_bytes)[:, None]
    if figure is gap_closed and (other.draws(seeds) <= teacher_draws).any():
        return None  # no gap to close, at least on some documents
    values = figure(table.bits(seeds), other.bits(seeds), np.array(teacher.bits_per_byte))
    return estimate(list(values), figure(table.draws(seeds), other.draws(seeds), teacher_draws))


def _measures(table: _Table, seeds: Sequence[int]) -> dict[str, Estimate]:
    """Return every other measure that all seeds have."""
    from distillation.evaluation.result import model_metrics

    rows = [{**model_metrics(table.result(seed)), **table.by_seed[seed].training} for seed in seeds]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    skipped = ("bits_per_byte", "gap_closed")
    return {name: estimate([row[name] for row in rows]) for name in names if name not in skipped}


def describe(settings: Settings) -> str:
    """Return aligner, objective and what else matters in words."""
    if not settings.objective.uses_teacher:
        return "text alone"
    terms = settings.objective.terms
    has_targets = bool(terms.active.keys() & set(DIVERGENCES))  # other terms read no aligner's targets
    parts = [*([settings.alignment.name] if has_targets else []), terms.description]
    if settings.objective.temperature != 1:
        parts.append(f"temperature {settings.objective.temperature:g}")
    if settings.cache is not None:
        parts.append(f"cached by {settings.cache.kind}")
    return ", ".join(parts)
