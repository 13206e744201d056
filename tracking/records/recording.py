"""Where a step's results go in MLflow: the run of the pipeline, and a nested run for each student.

Early steps record as they finish, so that a run can be watched; the last step records everything once more.
So an outage in between costs nothing, and only the last step insists on an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zenml import get_step_context, log_metadata

from distillation.config import (
    ComparisonSettings,
    Settings,
    TrackingSettings,
    parse_settings,
)
from distillation.errors import TrackingError, one_line
from distillation.stopping import Stopped
from tracking.killed import ZENML_TAG, close_runs, go_on
from tracking.lineage import DatasetRecord, dataset_records
from tracking.records.comparison_runs import comparison_run_spec
from tracking.records.tags import comparable_tags, decision_tags, source_tags
from tracking.registry import HELD_OUT_TAG, PIPELINE_ROLE, REUSED_ROLE, ROLE_TAG
from tracking.runs import Recorder, RunSpec, flat_params
from tracking.server import resolve_tracking_uri

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse

    from distillation.corpus.corpus import CorpusReport
    from tracking.forwarder import MetricsForwarder

_LOG = logging.getLogger(__name__)


def pipeline_run_spec() -> RunSpec:
    """Return the MLflow run that belongs to the pipeline run of this step."""
    run = get_step_context().pipeline_run
    settings = settings_of(run)
    if isinstance(settings, ComparisonSettings):
        return comparison_run_spec(settings, run.name)
    return RunSpec(
        key=str(run.id),
        name=describe_settings(settings),
        tags={
            ROLE_TAG: PIPELINE_ROLE,
            **comparable_tags(settings),
            **source_tags(run.pipeline.name if run.pipeline else run.name),
            ZENML_TAG: run.name,
        },
        params=flat_params(settings),
    )


def settings_of(run: PipelineRunResponse) -> Settings:
    """Return the settings that a pipeline run was started with."""
    raw = (run.config.parameters or {}).get("settings") or {}
    return parse_settings(raw, ComparisonSettings if "comparison" in raw else Settings)


def student_run_spec(
    settings: Settings, variant: str, report: CorpusReport, tags: Mapping[str, str] | None = None
) -> RunSpec:
    """Return the run of one trained student, nested in that of the pipeline."""
    parent = pipeline_run_spec()
    comparable = comparable_tags(settings, variant)
    aligner = "" if comparable["aligner"] in ("none", variant) else f"{comparable['aligner']} "
    return RunSpec(
        key=f"{parent.key} {variant}",
        name=f"{variant}: {aligner}{comparable['objective']} seed {settings.seed}",
        tags={
            ROLE_TAG: "student",
            **comparable,
            **source_tags(f"{get_step_context().pipeline.name} {variant}"),
            HELD_OUT_TAG: report.held_out_fingerprint,
            **(tags or {}),
        },
        params=flat_params(settings),
        datasets=dataset_records(report, settings.corpus.sources),
        parent=parent,
    )


def describe_settings(settings: Settings) -> str:
    """Return a short name that tells runs of one experiment apart."""
    objective = settings.objective
    return f"{settings.alignment.name} {objective.terms.description} seed {settings.seed}"


def record_early(tracking: TrackingSettings, write: Callable[[Recorder, str], None]) -> None:
    """Let `write` record into the pipeline's run; an outage is a warning, as the last step records again."""
    try:
        recorder = Recorder(resolve_tracking_uri(tracking.uri), tracking.experiment)
        run_id = recorder.open(pipeline_run_spec())
        # A comparison that was stopped goes on in the run that it began.
        go_on(recorder, run_id, get_step_context().pipeline_run.name)
        write(recorder, run_id)
    except TrackingError as error:
        _LOG.warning("%s (recorded again by the last step)", one_line(error))


def record_pages(
    tracking: TrackingSettings,
    pages: Mapping[str, str],
    tags: Mapping[str, str],
    datasets: Iterable[DatasetRecord] = (),
) -> None:
    """Record texts by their path, tags and the documents read, in the pipeline's run."""

    def write(recorder: Recorder, run_id: str) -> None:
        for path, text in pages.items():
            recorder.log_text(run_id, text, path)
        if tags:
            recorder.set_tags(run_id, tags)
        recorder.log_datasets(run_id, datasets)

    record_early(tracking, write)


def metrics_forwarder(
    job_dir: Path, settings: Settings, variant: str, report: CorpusReport
) -> MetricsForwarder:
    """Return the forwarder that shows a job's metrics live in a run nested in the pipeline's."""
    from distillation.training.job import read_job
    from tracking.forwarder import MetricsForwarder

    tracking = settings.tracking
    uri = resolve_tracking_uri(tracking.uri)
    log_metadata({"mlflow_tracking_uri": uri, "mlflow_experiment": tracking.experiment})
    tags = {"job": job_dir.name, **decision_tags(read_job(job_dir).decision)}
    return MetricsForwarder(
        job_dir,
        uri=uri,
        experiment=tracking.experiment,
        run=student_run_spec(settings, variant, report, tags),
        samples_system=tracking.system_metrics,
    )


def close_reused_run(key: str, tracking: TrackingSettings) -> None:
    """End the MLflow run of a pipeline run whose evaluation came from the cache, if a step has opened one.

    Its figures are those of the run that the evaluation was made in, so it does not compete for promotion.
    """
    try:
        recorder = Recorder(resolve_tracking_uri(tracking.uri), tracking.experiment)
        run_id = recorder.find(key)
        if run_id is not None:
            recorder.set_tags(run_id, {ROLE_TAG: REUSED_ROLE})
            recorder.close(run_id)
    except TrackingError as error:
        _LOG.warning("%s", one_line(error))


def close_failed_run(error: BaseException) -> None:
    """Mark the pipeline's MLflow run as failed or stopped; the hook that ZenML calls when a step fails."""
    run = get_step_context().pipeline_run
    tracking = settings_of(run).tracking
    if isinstance(error, Stopped):  # in a hurry: whatever has been opened
        close_runs(Recorder(resolve_tracking_uri(tracking.uri), tracking.experiment), run.name)
    elif not isinstance(error, TrackingError):  # a server that is away cannot be told either
        record_early(tracking, lambda recorder, run_id: recorder.close(run_id, "FAILED"))
