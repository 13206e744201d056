"""The tasks of a comparison for people: a figure each, a table of all measures, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distillation.evaluation.result import Evaluation, skipped_tasks
from distillation.report.task_figure import share_figure
from distillation.report.templating import Drawing, figure_entry
from distillation.report.words import MISSING, SPACE, decimal, label, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distillation.evaluation.tasks import TaskResult

Measure = tuple[str, str]
"""A task and one of its measures."""

DRAWN_FIRST = ("acc_bytes", "acc_norm", "acc", "exact_match")
"""Of several measures of one task, the first of these is drawn: by length before in all."""
MAX_DRAWN = 8
"""Further tasks are left to the table."""
NOTES = {
    "cloze": "the last word of a sentence, as the model itself would write it",
    "choice": "which of four pieces of held-out text comes next",
}


def task_summary(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return what the templates show: `columns`, `rows`, `figures`, `skipped`; None without any task."""
    measures = task_measures(evaluation)
    skipped = skipped_tasks(evaluation)
    if not measures and not skipped:
        return None
    guesses = [percent(chance_of(evaluation, measure), 1) for measure in measures]
    rows = [
        {"label": label(name), "is_best": False, "tasks": task_cells(evaluation, name)}
        for name in evaluation.results
    ]
    rows.append({"label": "a guess", "is_best": False, "tasks": guesses})
    return {
        "columns": ("Model", *(f"{task}, {metric}" for task, metric in measures)),
        "rows": rows if measures else [],
        "figures": [figure_entry(one.figure, one.title, one.note) for one in task_drawings(evaluation)],
        "skipped": skipped,
    }


def task_measures(evaluation: Evaluation) -> list[Measure]:
    """Return every measure that some model has, in the order of the tasks."""
    found = (
        (task.name, task.metric)
        for result in evaluation.results.values()
        for task in result.tasks
        if task.value is not None
    )
    return list(dict.fromkeys(found))


def task_cells(evaluation: Evaluation, name: str) -> list[str]:
    """Return the model's figures in the order of `task_measures`, with their standard errors."""
    tasks = {(task.name, task.metric): task for task in evaluation.results[name].tasks}
    return [_shown(tasks.get(measure)) for measure in task_measures(evaluation)]


def chance_of(evaluation: Evaluation, measure: Measure) -> float | None:
    """Return what a guess gives; the same for every model, as their items are."""
    chances = (
        task.chance
        for result in evaluation.results.values()
        for task in result.tasks
        if (task.name, task.metric) == measure
    )
    return next(chances, None)


def _shown(task: TaskResult | None) -> str:
    if task is None or task.value is None:
        return MISSING
    if not task.is_share:
        return decimal(task.value) + _error(task.standard_error, 1.0, 3)
    return (
        percent(task.value, 1).removesuffix(SPACE + "%") + _error(task.standard_error, 100.0, 1) + f"{SPACE}%"
    )


def _error(error: float | None, factor: float, digits: int) -> str:
    return "" if error is None else f"{SPACE}±{SPACE}{factor * error:.{digits}f}"


def task_drawings(evaluation: Evaluation) -> list[Drawing]:
    """Return a figure for each task, of its first measure that is a share."""
    return list(_drawings(evaluation, task_measures(evaluation)))


def _drawings(evaluation: Evaluation, measures: list[Measure]) -> Iterator[Drawing]:
    for task in list(dict.fromkeys(task for task, _ in measures))[:MAX_DRAWN]:
        metrics = [metric for name, metric in measures if name == task]
        chosen = next((metric for metric in DRAWN_FIRST if metric in metrics), None)
        if chosen is None:
            continue
        results = {
            name: one
            for name, result in evaluation.results.items()
            for one in result.tasks
            if (one.name, one.metric) == (task, chosen) and one.value is not None
        }
        num_items = max(one.num_items for one in results.values())
        note = NOTES.get(task, f"share of items that are right ({chosen})")
        yield Drawing(
            f"task_{re.sub(r'[^A-Za-z0-9_-]', '_', task)}",
            f"Task {task}",
            f"{note}; {num_items:,} items, bars of one standard error",
            _figure(results, chance_of(evaluation, (task, chosen))),
        )


def _figure(results: dict[str, TaskResult], chance: float | None) -> Figure:
    return share_figure(
        {name: (task.value or 0.0, task.standard_error or 0.0) for name, task in results.items()},
        [_shown(task) for task in results.values()],
        "share of items that are right",
        chance=chance,
    )
