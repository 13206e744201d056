"""Step `compare_variants`: all students of a comparison side by side, the verdict and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from distillation.audit.audit import TokenizerAudit
from distillation.comparison import Comparison, StudentResult, make_plan, summarise
from distillation.comparison.search import Found
from distillation.config import ComparisonSettings
from distillation.errors import ComparisonError
from distillation.evaluation.result import Evaluation
from distillation.models.inspect.probe import ModelProbe
from distillation.training.student import Student
from steps.comparison_outcome import outcome_of
from steps.comparison_record import record_comparison
from steps.types import Corpus


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
    from distillation.comparison.chosen import chosen_student

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
    student = Student(job_dir / "student", "distilled", chosen.training, job_dir / "metrics.jsonl")
    return comparison, HTMLString(outcome.pages["report.html"]), student
