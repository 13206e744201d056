"""MLflow runs that a process left RUNNING when it was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracking.server import tracking_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

    from tracking.runs import Recorder

KILLED = "KILLED"
ZENML_TAG = "zenml.run"
"""Tag of the run of a whole pipeline: the name of the ZenML run that is at work in it, or was last."""
_PARENT = "mlflow.parentRunId"


def close_runs(recorder: Recorder, zenml_run: str) -> int:
    """End the runs of a pipeline run that is over, with all nested in them; return how many there were.

    Raises:
        TrackingError: the server fails.
    """
    experiment = recorder.experiment_id()
    with tracking_errors(recorder.uri):
        running = recorder.client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000)
    known = {run.info.run_id: run for run in running}

    def top_of(run: Run) -> Run:
        parent = run.data.tags.get(_PARENT)
        if parent is None:
            return run
        if parent not in known:
            with tracking_errors(recorder.uri):
                known[parent] = recorder.client.get_run(parent)
        return top_of(known[parent])

    left = [run for run in running if top_of(run).data.tags.get(ZENML_TAG) == zenml_run]
    for run in left:
        recorder.close(run.info.run_id, KILLED)
    return len(left)


def go_on(recorder: Recorder, run_id: str, zenml_run: str | None = None) -> None:
    """Let a run that was stopped, and is gone on with, be RUNNING again, under another pipeline run.

    Raises:
        TrackingError: the server fails.
    """
    with tracking_errors(recorder.uri):
        run = recorder.client.get_run(run_id)
        if run.info.status != "RUNNING":
            recorder.client.update_run(run_id, status="RUNNING")
    if zenml_run is not None and run.data.tags.get(ZENML_TAG) != zenml_run:
        recorder.set_tags(run_id, {ZENML_TAG: zenml_run})
