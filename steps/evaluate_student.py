"""Step `evaluate_student`: every student beside its controls and its teacher, and the report."""

from __future__ import annotations

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from distillation.audit.audit import TokenizerAudit
from distillation.config import Settings
from distillation.evaluation.result import DISTILLED, Evaluation, model_names
from distillation.models.inspect.probe import ModelProbe
from distillation.training.student import Student
from steps.caching import EVALUATION_CACHE
from steps.console import hide_loading_bars
from steps.types import Corpus
from tracking.records.final_record import record_all


@step(
    cache_policy=EVALUATION_CACHE,
    output_materializers={"evaluation": "materializers.evaluation.EvaluationMaterializer"},
)
def evaluate_student(
    students: list[Student],
    corpus: Corpus,
    audit: TokenizerAudit,
    teacher_probe: ModelProbe,
    student_probe: ModelProbe,
    settings: Settings,
    fingerprint: str,
) -> tuple[Annotated[Evaluation, "evaluation"], Annotated[HTMLString, "report"]]:
    """Measure controls and distilled student on the held-out documents; record all in the pipeline's run."""
    from distillation.audit.page import audit_summary
    from distillation.evaluation.evaluate import evaluate_models
    from distillation.report.histories import read_history
    from distillation.report.page import report_page

    hide_loading_bars(settings.models)
    students = sorted(students, key=lambda student: model_names().index(student.variant))
    decision = next(student.decision for student in students if student.variant == DISTILLED)
    untouched = settings.models.student
    evaluation = evaluate_models(
        {"untouched": untouched, **{one.variant: untouched.trained(one.directory) for one in students}},
        settings.models.teacher,
        corpus.test_texts,
        settings.evaluation,
        held_out_fingerprint=corpus.report.held_out_fingerprint,
        sources=corpus.test_sources,
        device=settings.models.device,
        decision=decision,
    )
    histories = {one.variant: read_history(one.history) for one in students if one.history is not None}
    probes = (teacher_probe, student_probe)
    trainings = {one.variant: one.metrics for one in students}
    page = report_page(
        evaluation, audit_summary(audit), probes, corpus.report, histories, settings, trainings=trainings
    )
    record_all(settings, students, evaluation, page, audit, probes, corpus, histories)
    return evaluation, HTMLString(page)
