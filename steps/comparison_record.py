"""What the last step of a comparison writes into MLflow: the table, the figures, the chosen student."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.load_corpus import corpus_tags
from steps.recording import comparable_tags, pipeline_run_spec
from tracking.registry import MISSING_TAG, MODEL_URI_TAG
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri

if TYPE_CHECKING:
    from distillation.alignment import TokenizerAudit
    from distillation.comparison import Comparison, Plan, VariantSummary
    from distillation.comparison.search import Found
    from distillation.config import ComparisonSettings, Settings
    from distillation.corpus import Corpus
    from distillation.evaluation import Evaluation
    from distillation.probing import ModelProbe


def record_comparison(
    comparison: Comparison,
    settings: ComparisonSettings,
    plan: Plan,
    found: Found | None,
    audit: TokenizerAudit,
    probes: Sequence[ModelProbe],
    corpus: Corpus,
) -> str:
    """Record figures, tables, pages, tags and the chosen student, end the run, and return the report.

    Raises:
        TrackingError: the server fails. The students are kept, and the same command records them later.
    """
    from distillation.comparison.chosen import chosen_evaluation, chosen_settings, chosen_student
    from distillation.evaluation import completeness
    from distillation.report.comparison_page import comparison_figures, comparison_page, read_histories

    changes = found.changes if found is not None else None
    evaluation = chosen_evaluation(comparison, settings.evaluation)
    figures = comparison_figures(comparison, read_histories(comparison), found)
    page = comparison_page(comparison, figures, settings, chosen=evaluation, found=found)
    recorder = Recorder(resolve_tracking_uri(settings.tracking.uri), settings.tracking.experiment)
    spec = pipeline_run_spec()
    run_id = recorder.open(spec)
    now = int(time.time() * 1000)
    chosen = chosen_student(comparison)
    trained_with = chosen_settings(comparison, plan, changes)
    recorder.log_metrics(run_id, _figures_of(comparison, evaluation), time_ms=now)
    for path, text in _pages(comparison, evaluation, trained_with, page, audit, probes, corpus).items():
        recorder.log_text(run_id, text, path)
    tags = {
        **corpus_tags(corpus.report),
        **comparable_tags(trained_with),
        "variant": chosen.variant,
        MISSING_TAG: "; ".join(completeness(evaluation)),
    }
    _record_student(recorder, run_id, Path(chosen.job_dir), evaluation, spec.name, tags)
    recorder.close(run_id)
    return page


def _figures_of(comparison: Comparison, evaluation: Evaluation) -> dict[str, float]:
    """Return the chosen student's figures, and what it saves over its control."""
    from distillation.evaluation import flat_metrics

    metrics = flat_metrics(evaluation)
    saving = comparison.variant(comparison.chosen or "").saving
    if saving is not None:
        metrics["distilled.advantage"] = saving.mean
        if saving.low is not None:
            metrics["distilled.advantage_low"] = saving.low
    return metrics


def _pages(
    comparison: Comparison,
    evaluation: Evaluation,
    trained_with: Settings,
    page: str,
    audit: TokenizerAudit,
    probes: Sequence[ModelProbe],
    corpus: Corpus,
) -> dict[str, str]:
    from distillation.report import audit_page

    return {
        "settings.json": trained_with.model_dump_json(indent=2),
        "report.html": page,
        "comparison.json": comparison.model_dump_json(indent=2),
        "evaluation.json": evaluation.model_dump_json(indent=2),
        "audit/audit.html": audit_page(audit),
        "audit/audit.json": audit.model_dump_json(indent=2),
        **{f"probes/{probe.role}.json": probe.model_dump_json(indent=2) for probe in probes},
        "corpus/contract.html": corpus.contract_page,
        "corpus/report.json": corpus.report.model_dump_json(indent=2),
    }


def _record_student(
    recorder: Recorder,
    run_id: str,
    job_dir: Path,
    evaluation: Evaluation,
    name: str,
    tags: dict[str, str],
) -> None:
    """Log the chosen student, unless an earlier run of the same comparison has logged this very one."""
    from tracking.students import log_student

    known = recorder.tags(run_id)
    if known.get(MODEL_URI_TAG) and known.get("job") == job_dir.name:
        recorder.set_tags(run_id, tags)
        return
    metadata = {"variant": "distilled", "held_out": evaluation.held_out_fingerprint, "run": name}
    uri = log_student(recorder, run_id, job_dir / "student", metadata=metadata)
    recorder.set_tags(run_id, {**tags, MODEL_URI_TAG: uri, "job": job_dir.name})


def comparison_rows(variants: Sequence[VariantSummary]) -> dict[str, list[Any]]:
    """Return the table of a comparison by column, for MLflow's own view of tables."""
    from distillation.report.comparison_words import against_control

    def mean(name: str) -> list[Any]:
        values = [getattr(one, name) for one in variants]
        return [None if value is None else round(value.mean, 5) for value in values]

    def end(name: str, which: str) -> list[Any]:
        values = [getattr(one, name) for one in variants]
        found = [None if value is None else getattr(value, which) for value in values]
        return [None if value is None else round(value, 5) for value in found]

    return {
        "variant": [one.name for one in variants],
        "description": [one.description for one in variants],
        "seeds": [len(one.seeds) for one in variants],
        "bits_per_byte": mean("bits_per_byte"),
        "saving": mean("saving"),
        "saving_low": end("saving", "low"),
        "saving_high": end("saving", "high"),
        "gap_closed": mean("gap_closed"),
        "gap_closed_low": end("gap_closed", "low"),
        "gap_closed_high": end("gap_closed", "high"),
        "verdict": [against_control(one) for one in variants],
    }
