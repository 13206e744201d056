"""One MLflow run a pipeline run, one nested run a trained student; each can be opened again by its key.

A `RunSpec` says all that is needed to open a run, now or after an outage, in this process or the next: runs
are found by the tag `key`, so that a repeated request never makes a second one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.server import artifact_location, connect, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from pydantic import BaseModel

_SECRET_WORDS = ("token", "password", "secret", "credential", "api_key")
_MAX_PARAM_LENGTH = 500
_BATCH = 100  # parameters a request, MLflow's limit


@dataclass(frozen=True)
class RunSpec:
    """What identifies and describes a run."""

    key: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain data."""
        return asdict(self)


class Recorder:
    """Writes runs of one experiment on one server.

    Every method raises `TrackingError` when the server fails.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.experiment = experiment
        self.client = connect(uri)

    def experiment_id(self) -> str:
        """Return the experiment's id, creating it where it is missing."""
        from mlflow.exceptions import MlflowException

        with tracking_errors(self.uri):
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                try:
                    return self.client.create_experiment(
                        self.experiment, artifact_location=artifact_location(self.uri)
                    )
                except MlflowException:  # another process may have been quicker
                    found = self.client.get_experiment_by_name(self.experiment)
                    if found is None:
                        raise
            return found.experiment_id

    def find(self, key: str, parent_id: str | None = None) -> str | None:
        """Return the id of the run with this key, or None."""
        experiment_id = self.experiment_id()
        filters = [f"tags.key = '{key}'"]
        if parent_id is not None:
            filters.append(f"tags.`mlflow.parentRunId` = '{parent_id}'")
        with tracking_errors(self.uri):
            found = self.client.search_runs([experiment_id], " and ".join(filters), max_results=1)
        return found[0].info.run_id if found else None

    def open(self, spec: RunSpec, parent: RunSpec | None = None) -> str:
        """Return the id of the run of `spec`, creating it, and its parent, where they are missing."""
        parent_id = self.open(parent) if parent is not None else None
        found = self.find(spec.key, parent_id)
        if found is not None:
            return found
        experiment_id = self.experiment_id()
        with tracking_errors(self.uri):
            tags = {**spec.tags, "key": spec.key}
            if parent_id is not None:
                tags["mlflow.parentRunId"] = parent_id
            run_id = self.client.create_run(experiment_id, tags=tags, run_name=spec.name).info.run_id
        self.log_params(run_id, spec.params)
        return run_id

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the run's tags."""
        with tracking_errors(self.uri):
            return dict(self.client.get_run(run_id).data.tags)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Write parameters, as many requests as MLflow needs."""
        from mlflow.entities import Param

        entries = [Param(name, value[:_MAX_PARAM_LENGTH]) for name, value in params.items()]
        with tracking_errors(self.uri):
            for begin in range(0, len(entries), _BATCH):
                self.client.log_batch(run_id, params=entries[begin : begin + _BATCH])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write or overwrite tags."""
        from mlflow.entities import RunTag

        with tracking_errors(self.uri):
            self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, time_ms: int, step: int = 0) -> None:
        """Write final figures. The time is given, so that writing them again changes nothing."""
        from mlflow.entities import Metric

        self.log_entries(run_id, [Metric(name, value, time_ms, step) for name, value in metrics.items()])

    def log_entries(self, run_id: str, entries: Sequence[Metric]) -> None:
        """Write metrics that carry their own time and step, at most 1,000."""
        with tracking_errors(self.uri):
            self.client.log_batch(run_id, metrics=entries)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Write `text` as the artifact `path`, replacing an earlier one."""
        with tracking_errors(self.uri):
            self.client.log_text(run_id, text, path)

    def log_files(self, run_id: str, directory: Path, path: str) -> None:
        """Write every file under `directory` as artifacts under `path`."""
        with tracking_errors(self.uri):
            self.client.log_artifacts(run_id, str(directory), path)

    def close(self, run_id: str, status: str = "FINISHED") -> None:
        """End the run as FINISHED or FAILED."""
        with tracking_errors(self.uri):
            self.client.set_terminated(run_id, status)


def flat_params(settings: BaseModel) -> dict[str, str]:
    """Return settings as `section.field` → text. Lists become JSON; whatever looks secret is masked."""
    params: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        elif any(word in prefix.rsplit(".", 1)[-1].lower() for word in _SECRET_WORDS):
            # Counts of tokens are no secrets: only text is masked.
            params[prefix] = "***" if isinstance(value, str) else json.dumps(value)
        else:
            params[prefix] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    walk("", settings.model_dump(mode="json"))
    return params
