"""An aligner as an artifact: the safetensors tables and JSON that `Aligner.save` writes. No pickle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zenml.enums import ArtifactType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.utils import io_utils

from distillation.aligners.base import Aligner
from distillation.aligners.build import load_aligner

if TYPE_CHECKING:
    from zenml.metadata.metadata_types import MetadataType


class AlignerMaterializer(BaseMaterializer):
    """Keeps any `Aligner` in the artifact store."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Aligner,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: Aligner) -> None:
        """Write the aligner's tables into the artifact."""
        with tempfile.TemporaryDirectory(prefix="aligner-") as folder:
            data.save(Path(folder))
            io_utils.copy_dir(folder, self.uri, overwrite=True)

    def load(self, data_type: type[Any]) -> Aligner:
        """Read the aligner back, whatever its kind."""
        root = Path(self.uri)
        if root.is_dir():
            return load_aligner(root)
        with tempfile.TemporaryDirectory(prefix="aligner-") as folder:
            io_utils.copy_dir(self.uri, folder, overwrite=True)
            return load_aligner(Path(folder))

    def compute_content_hash(self, data: Aligner) -> str | None:
        """Return the hash of what `save` writes: equal tables are equal inputs of later steps."""
        return data.content_digest()

    def extract_metadata(self, data: Aligner) -> dict[str, MetadataType]:
        """Return what the dashboard shows beside the artifact."""
        return {
            "strategy": data.name,
            "num_teacher_rows": data.num_teacher_rows,
            "num_student_rows": data.num_student_rows,
        }
