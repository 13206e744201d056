"""Finished runs in a real MLflow store, with a real student each, for the tests of promotion."""

from __future__ import annotations

from pathlib import Path

from distillation.config import PromotionSettings
from tracking.registration import Standing, promote
from tracking.registry import (
    HELD_OUT_TAG,
    MISSING_TAG,
    MODEL_URI_TAG,
    PIPELINE_ROLE,
    ROLE_TAG,
    Candidate,
    finished_runs,
)
from tracking.runs import Recorder, RunSpec
from tracking.students import log_student

METRIC = "distilled.bits_per_byte"


def finished_run(
    recorder: Recorder,
    key: str,
    bits: float,
    *,
    student: Path | None = None,
    model_uri: str = "",
    held_out: str = "set-a",
) -> str:
    """Record a run with its figure and a student, logged anew or taken from `model_uri`; return its id."""
    run_id = recorder.open(RunSpec(key, key, {ROLE_TAG: PIPELINE_ROLE}))
    recorder.log_metrics(run_id, {METRIC: bits}, time_ms=1_700_000_000_000)
    if student is not None:
        model_uri = log_student(recorder, run_id, student, metadata={"variant": "distilled"})
    recorder.set_tags(run_id, {MODEL_URI_TAG: model_uri, MISSING_TAG: "", HELD_OUT_TAG: held_out})
    recorder.close(run_id)
    return run_id


def candidates(recorder: Recorder) -> dict[str, Candidate]:
    """Return the finished runs by name."""
    return {run.run_name: run for run in finished_runs(recorder)}


def promote_one(
    recorder: Recorder, candidate: Candidate, model_name: str, champion_margin: float = 0.0
) -> Standing:
    settings = PromotionSettings(model_name=model_name, champion_margin=champion_margin)
    return promote(recorder, candidate, settings, f"# Card of {candidate.run_name}\n")
