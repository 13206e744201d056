"""What the last step of a distillation writes into the pipeline's MLflow run, all of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tracking.lineage import dataset_records
from tracking.records.recording import pipeline_run_spec
from tracking.records.student_record import comparison_columns, record_students
from tracking.records.tags import corpus_tags
from tracking.registry import MISSING_TAG, MODEL_URI_TAG, STUDENT_DIGEST_TAG, TEACHER_DIGEST_TAG
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri

if TYPE_CHECKING:
    from distillation.audit.audit import TokenizerAudit
    from distillation.config import ModelSettings, Settings
    from distillation.corpus.corpus import Corpus
    from distillation.evaluation.result import Evaluation
    from distillation.models.inspect.probe import ModelProbe
    from distillation.report.histories import History
    from distillation.training.student import Student


def record_all(
    settings: Settings,
    students: Sequence[Student],
    evaluation: Evaluation,
    page: str,
    audit: TokenizerAudit,
    probes: Sequence[ModelProbe],
    corpus: Corpus,
    histories: Mapping[str, History],
) -> None:
    """Record figures, pages, tags, the nested runs and the distilled student, and end the run.

    The run ends last: a run that is FINISHED has everything, which is what promotion relies on.

    Raises:
        TrackingError: the server fails. The students are kept, and the same command records them later.
    """
    from distillation.evaluation.result import flat_metrics
    from distillation.report.drawings import figure_files

    recorder = Recorder(resolve_tracking_uri(settings.tracking.uri), settings.tracking.experiment)
    run_id = recorder.open(pipeline_run_spec())
    time_ms = int(time.time() * 1000)
    record_students(recorder, settings, students, evaluation, corpus.report, time_ms=time_ms)
    recorder.log_metrics(run_id, flat_metrics(evaluation), time_ms=time_ms)
    recorder.log_datasets(run_id, dataset_records(corpus.report, settings.corpus.sources))
    for path, text in run_pages(settings, evaluation, page, audit, probes, corpus).items():
        recorder.log_text(run_id, text, path)
    for path, content in figure_files(evaluation, histories).items():
        recorder.log_bytes(run_id, content, path)
    recorder.log_table(run_id, comparison_columns(evaluation), "models.json")
    distilled = next(one for one in students if one.variant == "distilled")
    _record_outcome(recorder, run_id, distilled, evaluation, corpus, settings.models)
    recorder.close(run_id)


def run_pages(
    settings: Settings,
    evaluation: Evaluation,
    page: str,
    audit: TokenizerAudit,
    probes: Sequence[ModelProbe],
    corpus: Corpus,
) -> dict[str, str]:
    """Return the texts of a run by their path."""
    from distillation.audit.page import audit_page
    from distillation.models.inspect.probe import probe_page

    return {
        "settings.json": settings.model_dump_json(indent=2),
        "report.html": page,
        "evaluation.json": evaluation.model_dump_json(indent=2),
        "audit/audit.html": audit_page(audit),
        "audit/audit.json": audit.model_dump_json(indent=2),
        "probes/probes.html": probe_page(list(probes)),
        **{f"probes/{probe.role}.json": probe.model_dump_json(indent=2) for probe in probes},
        "corpus/contract.html": corpus.contract_page,
        "corpus/report.json": corpus.report.model_dump_json(indent=2),
    }


def _record_outcome(
    recorder: Recorder,
    run_id: str,
    distilled: Student,
    evaluation: Evaluation,
    corpus: Corpus,
    models: ModelSettings,
) -> None:
    """Record the distilled student, and what the run's page and the gate say of it."""
    from distillation.report.words import verdict_sentence
    from tracking.students import log_student

    name = pipeline_run_spec().name
    metadata = {"variant": distilled.variant, "held_out": evaluation.held_out_fingerprint, "run": name}
    model_uri = log_student(recorder, run_id, distilled.directory, metadata=metadata)
    recorder.note(
        run_id,
        f"**{verdict_sentence(evaluation)}**\n\nUnder *Artifacts*: `report.html` is the whole report, "
        "`models.json` its table, `figures/` its pictures. The nested runs hold the training curves.",
    )
    tags = {**outcome_tags(evaluation, corpus, models), "verdict": evaluation.verdict}
    recorder.set_tags(run_id, {**tags, MODEL_URI_TAG: model_uri})


def outcome_tags(evaluation: Evaluation, corpus: Corpus, models: ModelSettings) -> dict[str, str]:
    """Return the tags by which promotion and people judge a run: text, device, models, completeness."""
    from distillation.evaluation.result import completeness
    from distillation.models.load import model_digest

    return {
        **corpus_tags(corpus.report),
        "device": evaluation.device,
        TEACHER_DIGEST_TAG: model_digest(models.teacher, "teacher"),
        STUDENT_DIGEST_TAG: model_digest(models.student, "student"),
        MISSING_TAG: "; ".join(completeness(evaluation)),
    }
