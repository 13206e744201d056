"""Tags by which runs are filtered, grouped and traced to their code."""

from __future__ import annotations

from distillation.config import CONTROLS, Settings
from distillation.corpus.corpus import CorpusReport
from distillation.errors import shorten
from distillation.models.decision import Decision
from tracking.provenance import code_tags
from tracking.registry import HELD_OUT_TAG


def comparable_tags(settings: Settings, variant: str = "distilled") -> dict[str, str]:
    """Return the tags by which runs are filtered and grouped; `settings` are those of the student itself."""
    has_aligner = settings.objective.uses_teacher or variant not in CONTROLS
    return {
        "variant": variant,
        "aligner": settings.alignment.name if has_aligner else "none",
        "objective": settings.objective.terms.description,
        "seed": str(settings.seed),
        "teacher": settings.models.teacher.path,
        "student": settings.models.student.path,
    }


def decision_tags(decision: Decision) -> dict[str, str]:
    """Return the tags that say what a student was trained with."""
    return {
        "device": decision.device,
        "teacher_dtype": decision.teacher_dtype,
        "student_products": decision.student_products,
    }


def source_tags(name: str) -> dict[str, str]:
    """Return what MLflow's column `Source` shows."""
    return {"mlflow.source.name": name, "mlflow.source.type": "LOCAL", **code_tags()}


def corpus_tags(report: CorpusReport) -> dict[str, str]:
    """Return the tags that say which text a run was trained and measured on."""
    tags = {HELD_OUT_TAG: report.held_out_fingerprint, "corpus_source": report.source}
    if report.fallback_reasons:
        tags["fallback_reason"] = " | ".join(report.fallback_reasons)
    if report.left_out:
        tags["corpus_left_out"] = shorten("; ".join(one.describe() for one in report.left_out), 2000)
    return tags
