"""One write to the tracking server before any work, so that none is refused after it.

A server may answer and take nothing: it lets this user read only, the experiment was deleted, its database
or its artifact store is read-only, or the library that writes to that store is not installed here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from distillation.errors import TrackingError
from distillation.redaction import scrub
from tracking.runs import Recorder
from tracking.server import request_reason

_NAME = "trial of a write"
_LOGIN = (
    "log in as one who may write (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN), name another tracking.experiment, or another tracking.uri"
)


def try_tracking(uri: str, experiment: str) -> None:
    """Write a run with a tag, a figure and a file, and delete it; the experiment is made where it is missing.

    Where the server lets nobody delete, the run stays, ended and without a role.

    Raises:
        TrackingError: the server does not take one of them.
    """
    recorder = Recorder(uri, experiment)
    with _refusal(uri, experiment, "run", _LOGIN):
        run = recorder.client.create_run(recorder.experiment_id(), run_name=_NAME)
    run_id, place = str(run.info.run_id), str(run.info.artifact_uri)
    try:
        with _refusal(uri, experiment, "figure", _LOGIN):
            recorder.set_tags(run_id, {"trial": "write"})
            recorder.log_metrics(run_id, {"trial": 0.0}, time_ms=int(time.time() * 1000))
        with _refusal(
            uri, experiment, "file", f"see that {scrub(place)} can be written, or name another experiment"
        ):
            recorder.log_text(run_id, "trial\n", "trial.txt")
    finally:
        _remove(recorder, run_id, place)


@contextmanager
def _refusal(uri: str, experiment: str, kind: str, remedy: str) -> Iterator[None]:
    """Turn whatever fails into the line of a refusal: stores of artifacts have errors of many libraries."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, TrackingError) and error.__cause__ else error
        raise TrackingError(
            f"tracking.uri = {uri}: tracking.experiment = {experiment!r} takes no {kind} "
            f"({request_reason(cause)}); {remedy}"
        ) from error


def _remove(recorder: Recorder, run_id: str, place: str) -> None:
    """Delete what the trial wrote, as far as the server lets it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with suppress(Exception):
        get_artifact_repository(place, tracking_uri=recorder.uri).delete_artifacts()
    with suppress(Exception):
        recorder.client.set_terminated(run_id)
        recorder.client.delete_run(run_id)
