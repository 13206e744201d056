"""An evaluation as an artifact: JSON, with its figures as pictures in the dashboard.

The report, an output of the same step, shows them among words; here they stand alone, beside the headline
figures, which the dashboard compares over runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from zenml.enums import VisualizationType
from zenml.materializers.pydantic_materializer import PydanticMaterializer

from distillation.evaluation.result import Evaluation

if TYPE_CHECKING:
    from zenml.metadata.metadata_types import MetadataType


class EvaluationMaterializer(PydanticMaterializer):
    """Keeps an `Evaluation` as ZenML keeps any pydantic model."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Evaluation,)  # type: ignore[assignment]

    def save_visualizations(self, data: Evaluation) -> dict[str, VisualizationType]:
        """Write the figures that need no training curves."""
        from distillation.report.drawings import figure_files

        pictures = {}
        for path, content in figure_files(data).items():
            if path.endswith(".png"):
                place = f"{self.uri}/{path.rsplit('/', 1)[-1]}"
                with self.artifact_store.open(place, "wb") as file:
                    file.write(content)
                pictures[place] = VisualizationType.IMAGE
        return pictures

    def extract_metadata(self, data: Evaluation) -> dict[str, MetadataType]:  # type: ignore[override]
        """Return what the dashboard shows beside the artifact."""
        figures: dict[str, MetadataType] = {
            f"{name}_bits_per_byte": result.bits_per_byte for name, result in data.results.items()
        }
        return {"verdict": data.verdict, "held_out": data.held_out_fingerprint, **figures}
