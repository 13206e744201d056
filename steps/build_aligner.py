"""Step `build_aligner`: the tables that carry a teacher's distribution over, and the tokenizer audit."""

from __future__ import annotations

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from distillation.aligners.base import Aligner
from distillation.audit.audit import TokenizerAudit
from distillation.config import AlignmentSettings, ModelReference, TrackingSettings
from distillation.models.inspect.probe import ModelProbe
from steps.caching import ALIGNMENT_CACHE
from steps.types import Corpus
from tracking.records.recording import record_pages


@step(
    cache_policy=ALIGNMENT_CACHE,
    output_materializers={"aligner": "materializers.aligner.AlignerMaterializer"},
)
def build_aligner(
    corpus: Corpus,
    teacher_probe: ModelProbe,
    student_probe: ModelProbe,
    alignment: AlignmentSettings,
    teacher: ModelReference,
    student: ModelReference,
    tracking: TrackingSettings,
    fingerprint: str,
    window_length: int,
) -> tuple[
    Annotated[Aligner, "aligner"],
    Annotated[TokenizerAudit, "audit"],
    Annotated[HTMLString, "audit_page"],
]:
    """Build the aligner of `alignment.strategy` and measure what it can use on this corpus."""
    from distillation.aligners.build import build_schedule
    from distillation.aligners.store import KEPT_ALIGNERS
    from distillation.audit.audit import audit_tokenizers
    from distillation.audit.page import audit_page
    from distillation.models.load import load_tokenizer

    tokenizers = load_tokenizer(teacher, "teacher"), load_tokenizer(student, "student")
    rows = {
        "num_teacher_rows": teacher_probe.architecture.num_output_rows,
        "num_student_rows": student_probe.architecture.num_output_rows,
    }
    aligner = build_schedule(alignment.stages, *tokenizers, **rows, cache_dir=KEPT_ALIGNERS)
    audit = audit_tokenizers(*tokenizers, corpus.held_out["text"], **rows, window_length=window_length)
    page = audit_page(audit)
    record_pages(
        tracking, {"audit/audit.html": page, "audit/audit.json": audit.model_dump_json(indent=2)}, {}
    )
    return aligner, audit, HTMLString(page)
