"""What the gate needs from MLflow: finished runs, and the run behind the champion."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from distillation.errors import PromotionError
from tracking.runs import Recorder
from tracking.server import tracking_errors

CHAMPION = "champion"
CHALLENGER = "challenger"
MODEL_URI_TAG = "student.model_uri"
MISSING_TAG = "evaluation.missing"
HELD_OUT_TAG = "held_out"
TEACHER_DIGEST_TAG, STUDENT_DIGEST_TAG = "teacher_digest", "student_digest"
ROLE_TAG = "role"
PIPELINE_ROLE = "pipeline"
REUSED_ROLE = "reused"


class Candidate(BaseModel):
    """A finished pipeline run with its figures, or the run behind the champion."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    run_name: str
    metrics: dict[str, float]
    held_out_fingerprint: str
    """Names the held-out documents that the figures were measured on."""
    missing: str
    """What its evaluation lacks; empty when it is complete."""
    model_uri: str
    """MLflow model of the distilled student; empty where none was logged."""
    tags: dict[str, str] = {}
    version: str | None = None
    """Version in the registry, for the champion."""
    retired: str = ""
    """Which version of it was rolled back and when; empty for a run that may compete."""


def finished_runs(recorder: Recorder, *, max_results: int = 1000) -> list[Candidate]:
    """Return the experiment's finished pipeline runs, newest first.

    Raises:
        PromotionError: the experiment does not exist or has no finished run.
        TrackingError: the server failed.
    """
    with tracking_errors(recorder.uri):
        experiment = recorder.client.get_experiment_by_name(recorder.experiment)
        runs = (
            recorder.client.search_runs(
                [experiment.experiment_id],
                f"attributes.status = 'FINISHED' and tags.{ROLE_TAG} = '{PIPELINE_ROLE}'",
                max_results=max_results,
                order_by=["attributes.start_time DESC"],
            )
            if experiment is not None
            else []
        )
    if not runs:
        raise PromotionError(
            f"experiment = {recorder.experiment}: no finished run in {recorder.uri}; run the distillation "
            "pipeline first, or name another experiment"
        )
    return [_candidate(run) for run in runs]


def current_champion(recorder: Recorder, model_name: str) -> Candidate | None:
    """Return the run behind `models:/NAME@champion`, or None while there is none."""
    from mlflow.exceptions import MlflowException

    with tracking_errors(recorder.uri):
        try:
            version = recorder.client.get_model_version_by_alias(model_name, CHAMPION)
        except MlflowException as error:
            if has_code(error, "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        run = recorder.client.get_run(str(version.run_id))
    return _candidate(run).model_copy(update={"version": str(version.version)})


def has_code(error: object, *codes: str) -> bool:
    """Return whether an error of MLflow has one of its codes."""
    return getattr(error, "error_code", None) in codes


def _candidate(run: object) -> Candidate:
    info, data = run.info, run.data  # type: ignore[attr-defined]
    return Candidate(
        run_id=info.run_id,
        run_name=info.run_name or info.run_id,
        metrics=dict(data.metrics),
        held_out_fingerprint=data.tags.get(HELD_OUT_TAG, ""),
        missing=data.tags.get(MISSING_TAG, "the evaluation"),
        model_uri=data.tags.get(MODEL_URI_TAG, ""),
        tags={name: value for name, value in data.tags.items() if not name.startswith("mlflow.")},
    )
