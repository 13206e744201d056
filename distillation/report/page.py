"""The report of a comparison: one HTML file that stands alone.

It asks no other host for anything, follows the reader's light or dark setting, and fits a phone. The verdict
comes first, in a sentence, whichever way it went. Whatever a model or a document wrote is escaped: autoescape
is on for every template, and only drawings and fragments made by this package are passed as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillation.evaluation.result import Evaluation, ModelResult, completeness
from distillation.report.breakdown import breakdown
from distillation.report.drawings import comparison_drawings, group_drawings, training_drawings
from distillation.report.facts import facts
from distillation.report.figures import colour_of
from distillation.report.histories import History
from distillation.report.passages import passage_section
from distillation.report.tasks import task_summary
from distillation.report.templating import Drawing, figure_entry, render_page
from distillation.report.training_counts import COLUMNS as TRAINING_COLUMNS
from distillation.report.training_counts import Trainings, training_rows
from distillation.report.words import (
    MISSING,
    SPACE,
    best_student,
    decimal,
    explanation,
    label,
    milliseconds,
    percent,
    scaled,
    verdict_details,
    verdict_sentence,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from distillation.config import Settings
    from distillation.corpus.corpus import CorpusReport
    from distillation.models.inspect.probe import ModelProbe

QUALITY_COLUMNS = ("Model", "Bits per byte", "Gap closed", "Top-1 agreement", "KL, nats", "Calibration error")
SPEED_COLUMNS = (
    "Model",
    "Read, tokens/s",
    "Read, bytes/s",
    "Written, tokens/s",
    "First token",
    "Peak memory",
    "Parameters",
    "Active",
    "Weights",
    "Format",
)


def report_page(
    evaluation: Evaluation,
    audit: Mapping[str, Any] | None = None,
    probes: Sequence[ModelProbe] = (),
    corpus_report: CorpusReport | None = None,
    histories: Mapping[str, History] | None = None,
    settings: Settings | None = None,
    *,
    trainings: Trainings | None = None,
    title: str = "Student-aware distillation",
) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        evaluation: what `evaluate_models` found.
        audit: what `audit.page.audit_summary` says of the pair.
        probes: teacher's and student's `ModelProbe`.
        corpus_report: the `CorpusReport` of the run.
        histories: lines of metrics logs by variant (see `read_history`).
        settings: all settings of the run, shown as YAML.
        trainings: what the job of each student counted.
        title: stands above the verdict and in the browser's tab.
    """
    return render_page(
        "report.html",
        title=title,
        verdict=evaluation.verdict,
        sentence=verdict_sentence(evaluation),
        details=verdict_details(evaluation),
        missing=completeness(evaluation),
        configuration=as_yaml(settings) if settings is not None else None,
        **sections(evaluation, audit, probes, corpus_report, histories, trainings),
    )


def sections(
    evaluation: Evaluation,
    audit: Mapping[str, Any] | None = None,
    probes: Sequence[ModelProbe] = (),
    corpus_report: CorpusReport | None = None,
    histories: Mapping[str, History] | None = None,
    trainings: Trainings | None = None,
) -> dict[str, Any]:
    """Return what `sections.html` shows of the models of an evaluation: tables, figures, texts."""
    return {
        "nbsp": SPACE,
        "quality_columns": QUALITY_COLUMNS,
        "speed_columns": SPEED_COLUMNS,
        "rows": _rows(evaluation),
        "settings": evaluation.settings,
        "device": evaluation.device,
        "machine": evaluation.machine,
        "figures": _entries(comparison_drawings(evaluation)),
        "tasks": task_summary(evaluation),
        "groups": breakdown(evaluation),
        "group_figures": _entries(group_drawings(evaluation)),
        "passages": passage_section(evaluation),
        "curves": _entries(training_drawings(histories or {})),
        "training_columns": TRAINING_COLUMNS,
        "trainings": training_rows(trainings or {}),
        "samples": _samples(evaluation),
        "audit": audit,
        "probes": _probe_fragment(probes),
        "corpus": _corpus(evaluation, corpus_report) if corpus_report is not None else None,
    }


def _entries(drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    return [figure_entry(one.figure, one.title, one.note) for one in drawings]


def _rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    best = best_student(evaluation)
    return [
        {
            "label": label(name),
            "explanation": explanation(name),
            "is_best": name == best,
            "quality": _quality(result),
            "speed": _speed(result),
        }
        for name, result in evaluation.results.items()
    ]


def _quality(result: ModelResult) -> list[str]:
    agreement = result.agreement
    return [
        decimal(result.bits_per_byte),
        percent(result.gap_closed, 1),
        percent(agreement.top1_agreement, 1) if agreement else MISSING,
        decimal(agreement.kl_divergence) if agreement else MISSING,
        percent(result.expected_calibration_error, 1),
    ]


def _speed(result: ModelResult) -> list[str]:
    speed = result.speed
    return [
        scaled(speed.forward_tokens_per_second),
        scaled(result.bytes_per_second, "B"),
        scaled(speed.generated_tokens_per_second),
        milliseconds(speed.first_token_ms),
        scaled(speed.peak_memory_bytes, "B"),
        scaled(speed.num_parameters),
        scaled(speed.num_active_parameters),
        scaled(speed.size_on_disk, "B"),
        result.dtype,
    ]


def _samples(evaluation: Evaluation) -> list[list[dict[str, str]]]:
    """Return one group a prompt, in it one card a model."""
    groups: dict[str, list[dict[str, str]]] = {}
    for index, (name, result) in enumerate(evaluation.results.items()):
        for sample in result.samples:
            card = {
                "label": label(name),
                "colour": colour_of(name, index),
                "prompt": sample.prompt,
                "continuation": sample.continuation,
            }
            groups.setdefault(sample.prompt, []).append(card)
    return list(groups.values())


def _probe_fragment(probes: Sequence[ModelProbe]) -> Any:
    """Return the probes' own fragment, which escapes what it shows."""
    if not probes:
        return None
    from markupsafe import Markup

    from distillation.models.inspect.probe import probe_page

    return Markup(probe_page(probes))


def _corpus(evaluation: Evaluation, report: CorpusReport) -> dict[str, Any]:
    num_passed = sum(check.success for check in report.checks)
    return {
        "sentence": (
            f"Source: {report.source}. {report.num_train_documents:,} training documents "
            f"({scaled(report.train_bytes, 'B')}) and {report.num_held_out_documents:,} held out "
            f"({scaled(report.held_out_bytes, 'B')}, fingerprint {evaluation.held_out_fingerprint}). "
            f"Data contract: {num_passed} of {len(report.checks)} expectations hold."
        ),
        "warnings": report.warnings,
        "left_out": report.left_out,
        "checks": report.checks,
        "facts": facts(report.model_dump(mode="json", exclude={"checks", "fallback_reasons", "left_out"})),
    }


def as_yaml(settings: BaseModel) -> str:
    """Return settings as the YAML that a pipeline file holds."""
    import yaml

    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
