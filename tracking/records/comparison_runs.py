"""The MLflow runs of a comparison: one for the whole, below it one a variant, below that one a student.

All are known by the settings of the comparison, its models and its code, not by the pipeline run: a
comparison that was killed, or is run again, goes on in the runs that it began.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distillation.config import FOUND, ComparisonSettings
from distillation.fingerprint import digest_of
from distillation.sources import digest_of_sources
from tracking.killed import ZENML_TAG
from tracking.lineage import dataset_records
from tracking.records.tags import comparable_tags, decision_tags, source_tags
from tracking.registry import HELD_OUT_TAG, PIPELINE_ROLE, ROLE_TAG
from tracking.runs import RunSpec, flat_params

if TYPE_CHECKING:
    from distillation.corpus.corpus import CorpusReport
    from distillation.experiment.plan import Entry
    from tracking.forwarder import MetricsForwarder

PIPELINE = "comparison_pipeline"
VARIANT_ROLE = "variant"
MAX_NAME = 120


def comparison_run_spec(settings: ComparisonSettings, pipeline_run: str) -> RunSpec:
    """Return the run of a whole comparison."""
    names = ", ".join([*settings.comparison.all_variants, *([FOUND] if settings.comparison.search else [])])
    num_seeds = len(settings.comparison.seeds)
    return RunSpec(
        key=f"comparison {_identity(settings)}",
        name=f"comparison: {names} x {num_seeds} seed{'s' if num_seeds > 1 else ''}"[:MAX_NAME],
        tags={
            ROLE_TAG: PIPELINE_ROLE,
            "kind": "comparison",
            "teacher": settings.models.teacher.path,
            "student": settings.models.student.path,
            **source_tags(PIPELINE),
            ZENML_TAG: pipeline_run,
        },
        params=flat_params(settings),
    )


def _identity(settings: ComparisonSettings) -> str:
    """Return the digest of what makes a comparison another one."""
    from distillation.models.load import model_digest

    models = settings.models
    digests = [model_digest(models.teacher, "teacher"), model_digest(models.student, "student")]
    code = digest_of_sources("distillation.experiment.student")
    return digest_of([settings.model_dump(mode="json"), digests, code])


def variant_run_spec(entry: Entry, parent: RunSpec) -> RunSpec:
    """Return the run of a variant or control: the means of its seeds, and their runs below it."""
    tags = comparable_tags(entry.settings, entry.kind)
    del tags["seed"]
    return RunSpec(
        key=f"{parent.key} {entry.variant}",
        name=entry.variant,
        tags={**tags, **source_tags(PIPELINE), ROLE_TAG: VARIANT_ROLE, "variant": entry.variant},
        params=flat_params(entry.settings.model_copy(update={"seed": 0})),
        parent=parent,
    )


def student_run_spec(entry: Entry, parent: RunSpec, report: CorpusReport, job_dir: Path) -> RunSpec:
    """Return the run of one student of a comparison."""
    from distillation.training.job import read_job

    variant = variant_run_spec(entry, parent)
    return RunSpec(
        key=f"{variant.key} seed {entry.seed} {job_dir.name}",
        name=entry.name,
        tags={
            **comparable_tags(entry.settings, entry.kind),
            **source_tags(PIPELINE),
            ROLE_TAG: "student",
            "variant": entry.variant,
            HELD_OUT_TAG: report.held_out_fingerprint,
            "job": job_dir.name,
            **decision_tags(read_job(job_dir).decision),
        },
        params=flat_params(entry.settings),
        datasets=dataset_records(report, entry.settings.corpus.sources),
        parent=variant,
    )


def student_forwarder(job_dir: Path, entry: Entry, report: CorpusReport, parent: RunSpec) -> MetricsForwarder:
    """Return the forwarder that shows the metrics of a comparison's student live, in a run of its own.

    `parent` is the run of the comparison.
    """
    from tracking.forwarder import MetricsForwarder
    from tracking.server import resolve_tracking_uri

    tracking = entry.settings.tracking
    return MetricsForwarder(
        job_dir,
        uri=resolve_tracking_uri(tracking.uri),
        experiment=tracking.experiment,
        run=student_run_spec(entry, parent, report, job_dir),
        samples_system=tracking.system_metrics,
    )
