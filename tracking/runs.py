"""One MLflow run a pipeline run, nested runs for what it trains; each can be opened again by its key.

A `RunSpec` says all that is needed to open a run, now or after an outage, in this process or the next: runs
are found by the tag `key`, so that a repeated request never makes a second one. Whatever text is written goes
through `scrub`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from distillation.redaction import MASK, scrub
from tracking.lineage import DatasetRecord
from tracking.server import artifact_location, connect, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from pydantic import BaseModel

_SECRET_WORDS = ("token", "password", "secret", "credential", "api_key")
_MAX_PARAM_LENGTH = 500
_BATCH = 100  # parameters or tags a request, MLflow's limit
_TABLES_TAG = "mlflow.loggedArtifacts"
_NOTE_TAG = "mlflow.note.content"


@dataclass(frozen=True)
class RunSpec:
    """What identifies and describes a run, and the runs that it is nested in."""

    key: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    datasets: tuple[DatasetRecord, ...] = ()
    """What the run is trained and measured on."""
    parent: RunSpec | None = None
    """The run that this one is nested in, which may be nested itself."""

    def to_json(self) -> dict[str, Any]:
        """Return the specification, with those of its parents, as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSpec:
        """Return the specification that `to_json` gave; what earlier versions did not know may be missing.

        Raises:
            TypeError: `data` is no specification.
        """
        parent = data.get("parent")
        nested = {
            "datasets": tuple(DatasetRecord(**record) for record in data.get("datasets", ())),
            "parent": cls.from_json(parent) if parent is not None else None,
        }
        return cls(**{**data, **nested})


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
        """Return the id of the run of `spec`, creating it, and all that it is nested in, where missing.

        `parent` counts where `spec` names none.
        """
        above = spec.parent or parent
        parent_id = self.open(above) if above is not None else None
        found = self.find(spec.key, parent_id)
        if found is not None:
            return found
        experiment_id = self.experiment_id()
        with tracking_errors(self.uri):
            tags = {name: scrub(value) for name, value in spec.tags.items()} | {"key": spec.key}
            if parent_id is not None:
                tags["mlflow.parentRunId"] = parent_id
            run = self.client.create_run(experiment_id, tags=tags, run_name=scrub(spec.name))
        self.log_params(run.info.run_id, spec.params)
        self.log_datasets(run.info.run_id, spec.datasets)
        return str(run.info.run_id)

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the run's tags."""
        with tracking_errors(self.uri):
            return dict(self.client.get_run(run_id).data.tags)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Write parameters, as many requests as MLflow needs."""
        from mlflow.entities import Param

        entries = [Param(name, scrub(value)[:_MAX_PARAM_LENGTH]) for name, value in params.items()]
        with tracking_errors(self.uri):
            for begin in range(0, len(entries), _BATCH):
                self.client.log_batch(run_id, params=entries[begin : begin + _BATCH])

    def log_datasets(self, run_id: str, datasets: Iterable[DatasetRecord]) -> None:
        """Say what the run is trained and measured on; saying it again changes nothing."""
        scrubbed = [
            DatasetRecord(**{name: scrub(value) for name, value in one.to_json().items()}) for one in datasets
        ]
        if scrubbed:
            with tracking_errors(self.uri):
                self.client.log_inputs(run_id, datasets=[one.to_input() for one in scrubbed])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write or overwrite tags."""
        from mlflow.entities import RunTag

        entries = [RunTag(name, scrub(value)) for name, value in tags.items()]
        with tracking_errors(self.uri):
            for begin in range(0, len(entries), _BATCH):
                self.client.log_batch(run_id, tags=entries[begin : begin + _BATCH])

    def note(self, run_id: str, markdown: str) -> None:
        """Write the run's description, which MLflow shows on top of its page; replaces an earlier one."""
        self.set_tags(run_id, {_NOTE_TAG: markdown})

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
            self.client.log_text(run_id, scrub(text), path)

    def log_bytes(self, run_id: str, content: bytes, path: str) -> None:
        """Write `content`, for example a picture, as the artifact `path`, replacing an earlier one."""
        place = PurePosixPath(path)
        folder = str(place.parent) if place.parent.name else None
        with tempfile.TemporaryDirectory() as temporary, tracking_errors(self.uri):
            file = Path(temporary) / place.name
            file.write_bytes(content)
            self.client.log_artifact(run_id, str(file), folder)

    def log_table(
        self, run_id: str, columns: Mapping[str, Sequence[Any]], path: str = "comparison.json"
    ) -> None:
        """Write a table that MLflow shows as one, replacing an earlier one of that path.

        MLflow's own `log_table` adds rows to the table that is there, so a repetition would double them.

        Args:
            run_id: the run.
            columns: cells of each column: numbers, text or None. What is no finite number becomes None.
            path: artifact's path, which ends in `.json`.

        Raises:
            ValueError: columns of different lengths.
        """
        rows = [[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)]
        content = json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False)
        self.log_text(run_id, content, path)
        with tracking_errors(self.uri):
            known = json.loads(self.client.get_run(run_id).data.tags.get(_TABLES_TAG, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in known:
            self.set_tags(run_id, {_TABLES_TAG: json.dumps([*known, entry])})

    def log_files(self, run_id: str, directory: Path, path: str) -> None:
        """Write every file under `directory` as artifacts under `path`."""
        with tracking_errors(self.uri):
            self.client.log_artifacts(run_id, str(directory), path)

    def close(self, run_id: str, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        with tracking_errors(self.uri):
            self.client.set_terminated(run_id, status)


def _cell(value: Any) -> Any:
    """Return a cell that JSON can hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat_params(settings: BaseModel) -> dict[str, str]:
    """Return settings as `section.field` → text. Lists become JSON; whatever looks secret is masked."""
    params: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        elif any(word in prefix.rsplit(".", 1)[-1].lower() for word in _SECRET_WORDS):
            # Counts of tokens are no secrets: only text is masked.
            params[prefix] = MASK if isinstance(value, str) else json.dumps(value)
        else:
            params[prefix] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    walk("", settings.model_dump(mode="json"))
    return params
