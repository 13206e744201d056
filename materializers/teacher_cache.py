"""A teacher cache as an artifact: where it is, the checksum of each shard, its figures. No pickle.

The shards themselves stay in `cache.output_dir`: they may be larger than all else together, jobs link them,
and the step that makes them checks each on every run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zenml.enums import ArtifactType
from zenml.materializers.base_materializer import BaseMaterializer

from distillation.teachers.cache.store import TeacherCache

if TYPE_CHECKING:
    from zenml.metadata.metadata_types import MetadataType

_FILE = "teacher_cache.json"


class TeacherCacheMaterializer(BaseMaterializer):
    """Keeps a `TeacherCache` in the artifact store."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (TeacherCache,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: TeacherCache) -> None:
        """Write the list of shards into the artifact."""
        with self.artifact_store.open(f"{self.uri}/{_FILE}", "w") as file:
            file.write(data.model_dump_json(indent=2))

    def load(self, data_type: type[Any]) -> TeacherCache:
        """Read the list back; whether the shards are there is checked where they are used."""
        with self.artifact_store.open(f"{self.uri}/{_FILE}", "r") as file:
            return TeacherCache.model_validate_json(file.read())

    def compute_content_hash(self, data: TeacherCache) -> str | None:
        """Return the hash of the shards: equal ones are equal inputs of later steps."""
        return f"{Path(data.directory).name}-{data.digest}"

    def extract_metadata(self, data: TeacherCache) -> dict[str, MetadataType]:
        """Return what the dashboard shows beside the artifact."""
        figures = {name.replace("/", "_"): value for name, value in data.metrics.items()}
        return {"directory": str(data.directory), "kind": data.settings.description, **figures}
