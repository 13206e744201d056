"""Step `compare_variants`: all students of a comparison side by side, the verdict and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from distillation.audit.audit import TokenizerAudit
from distillation.config import ComparisonSettings
from distillation.errors import ComparisonError
from distillation.evaluation.result import Evaluation
from distillation.experiment.plan import make_plan
from distillation.experiment.result import Comparison, StudentResult
from distillation.experiment.search import Found
from distillation.experiment.summarise import summarise
from distillation.metrics_log import METRICS_FILE
from distillation.models.inspect.probe import ModelProbe
from distillation.training.student import Student
from steps.types import Corpus
from tracking.records.comparison_outcome import outcome_of
from tracking.records.comparison_record import record_comparison


@step(enable_cache=False)
def compare_variants(
    results: list[StudentResult],
    references: list[Evaluation],
    corpus: Corpus,
    audit: TokenizerAudit,
    teacher_probe: ModelProbe,
    student_probe: ModelProbe,
    found: Found | None,
    settings: ComparisonSettings,
) -> tuple[
    Annotated[Comparison, "comparison"],
    Annotated[HTMLString, "report"],
    Annotated[Student, "student"],
]:
    """Compare, write the report, record all of it and the chosen student.

    Raises:
        ComparisonError: every variant failed.
    """
    from distillation.experiment.chosen import chosen_student

    plan = make_plan(settings)
    by_teacher = {one.results["teacher"].source: one for one in references}
    comparison = summarise(results, by_teacher, plan, found=found.changes if found is not None else None)
    if comparison.chosen is None:
        raise ComparisonError(f"every variant failed: {'; '.join(comparison.failures)}")
    probes = (teacher_probe, student_probe)
    outcome = outcome_of(comparison, plan, settings, found, corpus, audit, probes)
    record_comparison(outcome, corpus)
    chosen = chosen_student(comparison)
    job_dir = Path(chosen.job_dir)
    student = Student(job_dir / "student", "distilled", chosen.training, job_dir / METRICS_FILE)
    return comparison, HTMLString(outcome.pages["report.html"]), student
