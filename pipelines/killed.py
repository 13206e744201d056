"""Pipeline runs whose process was killed: the next start on the same machine closes them.

They end in ZenML and in MLflow. A run holds a lock that ends with its process, in ZenML's own folder and
under the name of its ZenML run. A name whose lock is free belongs to a process that is gone. So no run of
another machine is touched, nor one that is still at work.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from distillation.errors import LockError, SettingsError, TrackingError, one_line
from distillation.files import storing
from distillation.locks import exclusive
from pipelines.places import zenml_directory

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse

_LOG = logging.getLogger(__name__)
_REASON = "its process ended without closing it"


@contextmanager
def marked_as_running(pipeline: str, config_path: str | None = None) -> Iterator[str | None]:
    """Yield the name for a run of `pipeline`, and hold its mark until the run has ended and is closed.

    None where the file names the run itself, perhaps by a pattern.

    Raises:
        StorageError: ZenML's folder cannot be written.
    """
    if config_path is not None and "run_name" in (yaml.safe_load(Path(config_path).read_text("utf-8")) or {}):
        yield None
        return
    name = f"{pipeline}-{datetime.now(UTC):%Y_%m_%d-%H_%M_%S_%f}"  # as ZenML names runs
    mark = _marks() / name
    with storing(mark, "ZENML_CONFIG_PATH"):
        mark.mkdir(parents=True)
    with exclusive(mark, "pipeline run", setting="ZENML_CONFIG_PATH"):
        try:
            yield name
        except Exception:
            shutil.rmtree(mark, ignore_errors=True)
            raise
        # After a stop the mark stays: there may not have been the time to close everything.
        shutil.rmtree(mark, ignore_errors=True)


def close_killed_runs() -> list[str]:
    """Close the runs of processes that are gone, and return their names."""
    closed = []
    for mark in sorted(_marks().glob("*")):
        try:
            with exclusive(mark, "pipeline run"):
                if _close(mark.name):
                    closed.append(mark.name)
                    _LOG.warning("run %s: %s; it is marked as stopped", mark.name, _REASON)
                shutil.rmtree(mark, ignore_errors=True)
        except LockError:  # at work
            continue
        except TrackingError as error:  # closed in ZenML; in MLflow by a later start
            _LOG.warning("%s", one_line(error))
    return closed


def _marks() -> Path:
    return zenml_directory() / "running"


def _close(name: str) -> bool:
    """Close a run in ZenML and what belongs to it in MLflow; return whether there was anything to close.

    Raises:
        TrackingError: the tracking server fails.
    """
    from zenml.client import Client

    found = Client().list_pipeline_runs(name=name, size=1, hydrate=True).items
    if not found:
        return False  # killed before there was a run
    return any([_close_in_zenml(found[0]), _close_in_mlflow(found[0])])


def _close_in_zenml(run: PipelineRunResponse) -> bool:
    from zenml.client import Client
    from zenml.enums import ExecutionStatus
    from zenml.orchestrators import publish_utils

    steps = Client().list_run_steps(pipeline_run_id=run.id, size=1000).items
    for step in steps:
        if not step.status.is_finished:
            publish_utils.publish_step_run_status_update(step.id, ExecutionStatus.STOPPED)
    if Client().get_pipeline_run(run.id, hydrate=False).status.is_finished:
        return not run.status.is_finished
    # ZenML calls a run RUNNING as long as steps are to come, unless it is about to stop: then it stops here.
    publish_utils.publish_pipeline_run_status_update(run.id, ExecutionStatus.STOPPING, _REASON)
    return True


def _close_in_mlflow(run: PipelineRunResponse) -> bool:
    from tracking.killed import close_runs
    from tracking.records.recording import settings_of
    from tracking.runs import Recorder
    from tracking.server import tracking_uri_of

    try:
        tracking = settings_of(run).tracking
    except SettingsError:  # a promotion, which has no run of its own, or settings of an earlier version
        return False
    uri = tracking.uri
    if uri is None:
        if run.stack is None:
            return False  # the stack is gone, and with it the address
        uri = tracking_uri_of(run.stack)
    return close_runs(Recorder(uri, tracking.experiment), run.name) > 0
