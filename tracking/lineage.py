"""Which documents a run was trained and measured on, in the form that MLflow calls dataset inputs.

MLflow shows them on the run's page and as a column of the runs' table, and filters by them. A dataset is its
name and the fingerprint of its documents; saying it again changes nothing. Sources of the hub and of files
have MLflow's own types, so `mlflow.data.get_source` finds the place again; the documentation of this
installation has a type of its own.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.config import FileSource, HubSource, Source

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

    from distillation.corpus.corpus import CorpusReport

TRAINING, EVALUATION = "training", "evaluation"
_CONTEXT_TAG = "mlflow.data.context"


@dataclass(frozen=True)
class DatasetRecord:
    """One part of a corpus; plain strings, so that it can wait in a file while the server is away."""

    name: str
    digest: str
    """Fingerprint of the documents, 16 hexadecimal digits."""
    context: str
    """`training` or `evaluation`."""
    source_type: str
    source: str
    """JSON."""
    schema: str
    """JSON in MLflow's form: the columns and their types."""
    profile: str
    """JSON: how many documents and UTF-8 bytes."""

    def to_json(self) -> dict[str, str]:
        """Return the record as plain data."""
        return asdict(self)

    def to_input(self) -> DatasetInput:
        """Return the record as MLflow's entity."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            self.name, self.digest, self.source_type, self.source, schema=self.schema, profile=self.profile
        )
        return DatasetInput(dataset, [InputTag(_CONTEXT_TAG, self.context)])


def dataset_records(report: CorpusReport, sources: Sequence[Source]) -> tuple[DatasetRecord, ...]:
    """Return the training and the held-out part of the corpus that `report` describes.

    Args:
        report: what was read.
        sources: `corpus.sources`; the one that was accepted is found by its description.
    """
    from distillation.corpus.sources.base import describe_source

    accepted = next((source for source in sources if describe_source(source) == report.source), None)
    name, kind, place = _describe(accepted, report)
    columns = ["text", "document_id", "origin"]
    if getattr(accepted, "messages_column", None) is not None:
        columns.append("messages")
    fields = [{"type": "string", "name": column, "required": True} for column in columns]
    schema = json.dumps({"mlflow_colspec": fields})
    return tuple(
        DatasetRecord(
            name=f"{name} {part}",
            digest=digest,
            context=context,
            source_type=kind,
            source=json.dumps(place),
            schema=schema,
            profile=json.dumps({"num_rows": num_documents, "num_bytes": num_bytes}),
        )
        for part, digest, context, num_documents, num_bytes in (
            ("train", report.train_fingerprint, TRAINING, report.num_train_documents, report.train_bytes),
            (
                "held-out",
                report.held_out_fingerprint,
                EVALUATION,
                report.num_held_out_documents,
                report.held_out_bytes,
            ),
        )
    )


def _describe(source: Source | None, report: CorpusReport) -> tuple[str, str, dict[str, Any]]:
    """Return the name, the type and the place of a source."""
    if isinstance(source, HubSource):
        place = {
            "path": source.path,
            "config_name": source.name,
            "data_files": list(source.data_files) or None,
            "split": source.split,
            "revision": source.revision,
        }
        known = {field: value for field, value in place.items() if value is not None}
        return "/".join(filter(None, (source.path, source.name))), "hugging_face", known
    if isinstance(source, FileSource):
        return Path(source.path).name or source.path, "local", {"uri": str(Path(source.path).resolve())}
    return report.source, report.source_kind, {"source": report.source, "python": platform.python_version()}
