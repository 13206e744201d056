"""All that a comparison has to show, put together once: the report, its pictures, the chosen student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracking.records.comparison_record import Outcome
from tracking.records.final_record import run_pages

if TYPE_CHECKING:
    from distillation.audit.audit import TokenizerAudit
    from distillation.config import ComparisonSettings
    from distillation.corpus.corpus import Corpus
    from distillation.evaluation.result import Evaluation
    from distillation.experiment.plan import Plan
    from distillation.experiment.result import Comparison
    from distillation.experiment.search import Found
    from distillation.models.inspect.probe import ModelProbe


def outcome_of(
    comparison: Comparison,
    plan: Plan,
    settings: ComparisonSettings,
    found: Found | None,
    corpus: Corpus,
    audit: TokenizerAudit,
    probes: Sequence[ModelProbe],
) -> Outcome:
    """Draw, write the pages, and set the chosen student beside the controls of its seed."""
    from distillation.audit.page import audit_summary
    from distillation.experiment.chosen import chosen_settings, chosen_students
    from distillation.metrics_log import METRICS_FILE
    from distillation.report.comparison_page import (
        comparison_drawings,
        comparison_files,
        comparison_page,
        read_histories,
    )
    from distillation.report.drawings import figure_files
    from distillation.report.histories import read_history
    from distillation.report.page import sections
    from distillation.training.job import read_status

    evaluation = _chosen_evaluation(comparison, plan, settings, corpus)
    jobs = {name: Path(one.job_dir) for name, one in chosen_students(comparison).items()}
    logs = {name: read_history(job_dir / METRICS_FILE) for name, job_dir in jobs.items()}
    trainings = {name: read_status(job_dir).get("metrics", {}) for name, job_dir in jobs.items()}
    histories = read_histories(comparison)
    drawings = comparison_drawings(comparison, histories, found)
    chosen = sections(evaluation, audit_summary(audit), probes, corpus.report, logs, trainings)
    trained_with = chosen_settings(comparison, plan, found.changes if found is not None else None)
    page = comparison_page(comparison, drawings, settings, chosen=chosen, found=found)
    pages = {
        **run_pages(trained_with, evaluation, page, audit, probes, corpus),
        "comparison.json": comparison.model_dump_json(indent=2),
    }
    pictures = {**comparison_files(drawings), **figure_files(evaluation, logs)}
    return Outcome(comparison, plan, evaluation, trained_with, histories, pages, pictures)


def _chosen_evaluation(
    comparison: Comparison, plan: Plan, settings: ComparisonSettings, corpus: Corpus
) -> Evaluation:
    from distillation.evaluation.evaluate import read_side_by_side
    from distillation.evaluation.groups import document_labels
    from distillation.experiment.chosen import chosen_evaluation, chosen_students

    teacher = comparison.variant(comparison.chosen or "").teacher
    models = next(one for one in plan.teachers if one.teacher.path == teacher)
    passages = read_side_by_side(
        {
            name: models.student.trained(Path(one.job_dir) / "student")
            for name, one in chosen_students(comparison).items()
        },
        models.teacher,
        corpus.test_texts,
        settings.evaluation,
        device=models.device,
    )
    labels = document_labels(corpus.test_texts, corpus.test_sources)
    return chosen_evaluation(comparison, settings.evaluation, document_labels=labels, passages=passages)
