"""What the last step of a distillation writes into the nested runs: one a student, comparable by name.

A student that came from the cache has no run under this pipeline run yet; it gets one, with the curves of
its training, so that every pipeline run shows all its students side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distillation.config import CONTROLS
from tracking.log_lines import log_history
from tracking.names import final_name
from tracking.records.recording import student_run_spec
from tracking.records.tags import decision_tags

if TYPE_CHECKING:
    from distillation.config import Settings
    from distillation.corpus.corpus import CorpusReport
    from distillation.evaluation.result import Evaluation
    from distillation.training.student import Student
    from tracking.runs import Recorder, RunSpec


def record_students(
    recorder: Recorder,
    settings: Settings,
    students: Sequence[Student],
    evaluation: Evaluation,
    report: CorpusReport,
    *,
    time_ms: int,
) -> None:
    """Record every student in the run nested in that of this step's pipeline.

    Raises:
        TrackingError: the server fails.
    """
    for student in students:
        tags = {} if student.decision is None else decision_tags(student.decision)
        variant = student.variant
        own = CONTROLS[variant].settings(settings) if variant in CONTROLS else settings
        spec = student_run_spec(own, variant, report, {"device": evaluation.device} | tags)
        record_student(recorder, spec, student, evaluation, time_ms=time_ms)


def record_student(
    recorder: Recorder, spec: RunSpec, student: Student, evaluation: Evaluation, *, time_ms: int
) -> None:
    """Record a student's final figures, named as every other's, and the curves of one from the cache.

    Raises:
        TrackingError: the server fails.
    """
    parent_id = recorder.open(spec.parent) if spec.parent is not None else None
    is_new = recorder.find(spec.key, parent_id) is None
    run_id = recorder.open(spec)
    if is_new:
        recorder.set_tags(run_id, {"reused": "true"})
        if student.history is not None and student.history.exists():
            log_history(recorder, run_id, student.history)
    figures = _figures(evaluation, student.variant)
    final = {final_name(measure): value for measure, value in figures.items()}
    recorder.log_metrics(run_id, final, time_ms=time_ms)
    if is_new:
        recorder.close(run_id)


def comparison_columns(evaluation: Evaluation) -> dict[str, list[Any]]:
    """Return the evaluation as a table to be read: one row a model, one column a measure.

    Figures have four digits and counts all of theirs; None where unknown.
    """
    rows = {name: _figures(evaluation, name) for name in evaluation.results}
    measures = dict.fromkeys(measure for row in rows.values() for measure in row)
    columns: dict[str, list[Any]] = {"model": list(rows)}
    for measure in measures:
        columns[measure] = [_shown(row[measure]) if measure in row else None for row in rows.values()]
    return columns


def _shown(value: float) -> float:
    return int(value) if value.is_integer() else float(f"{value:.4g}")


def _figures(evaluation: Evaluation, name: str) -> dict[str, float]:
    """Return the figures of one model by measure."""
    from distillation.evaluation.result import flat_metrics

    prefix = f"{name}."
    return {
        key.removeprefix(prefix): value
        for key, value in flat_metrics(evaluation).items()
        if key.startswith(prefix)
    }
