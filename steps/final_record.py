"""What the last step of a distillation writes into the pipeline's MLflow run, all of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steps.load_corpus import corpus_tags
from steps.recording import pipeline_run_spec
from tracking.registry import MISSING_TAG, MODEL_URI_TAG, STUDENT_DIGEST_TAG, TEACHER_DIGEST_TAG
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri

if TYPE_CHECKING:
    from distillation.alignment import TokenizerAudit
    from distillation.config import Settings
    from distillation.corpus import Corpus
    from distillation.evaluation import Evaluation
    from distillation.probing import ModelProbe
    from materializers.student import Student


def record_all(
    settings: Settings,
    distilled: Student,
    evaluation: Evaluation,
    page: str,
    audit: TokenizerAudit,
    probes: Sequence[ModelProbe],
    corpus: Corpus,
) -> None:
    """Record figures, pages, tags and the distilled student, and end the run.

    The run ends last: a run that is FINISHED has everything, which is what promotion relies on.

    Raises:
        TrackingError: the server fails. The students are kept, and the same command records them later.
    """
    from distillation.evaluation import completeness, flat_metrics
    from distillation.models import model_digest
    from distillation.probing import probe_page
    from distillation.report import audit_page
    from tracking.students import log_student

    recorder = Recorder(resolve_tracking_uri(settings.tracking.uri), settings.tracking.experiment)
    spec = pipeline_run_spec()
    run_id = recorder.open(spec)
    recorder.log_metrics(run_id, flat_metrics(evaluation), time_ms=int(time.time() * 1000))
    pages = {
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
    for path, text in pages.items():
        recorder.log_text(run_id, text, path)
    metadata = {"variant": distilled.variant, "held_out": evaluation.held_out_fingerprint, "run": spec.name}
    model_uri = log_student(recorder, run_id, distilled.directory, metadata=metadata)
    recorder.set_tags(
        run_id,
        {
            **corpus_tags(corpus.report),
            MODEL_URI_TAG: model_uri,
            TEACHER_DIGEST_TAG: model_digest(settings.models.teacher, "teacher"),
            STUDENT_DIGEST_TAG: model_digest(settings.models.student, "student"),
            MISSING_TAG: "; ".join(completeness(evaluation)),
        },
    )
    recorder.close(run_id)
