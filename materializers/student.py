"""A trained student as an artifact: safetensors, configuration, tokenizer and the training log. No pickle.

Layout: `student/` (what `from_pretrained` reads), `metrics.jsonl`, `student.json`. In a local artifact store
`load` hands out the stored folder itself, which must not be written to; from a remote one it makes a copy.
"""

from __future__ import annotations

import html
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.utils import io_utils

from distillation.errors import JobError
from distillation.fingerprint import digest_of, digest_of_directory
from distillation.metrics_log import METRICS_FILE
from distillation.models.decision import Decision
from distillation.training.student import Student

if TYPE_CHECKING:
    from zenml.metadata.metadata_types import MetadataType

    from distillation.report.histories import History

_CURVES = {"held_out/bits_per_byte": "Bits per byte, held out", "loss": "Training loss"}
_FORBIDDEN = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class StudentMaterializer(BaseMaterializer):
    """Keeps a `Student` in the artifact store."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Student,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    def save(self, data: Student) -> None:
        """Copy the student's files into the artifact.

        Raises:
            JobError: the folder holds no safetensors weights, or weights that only pickle can read.
        """
        check_student_directory(data.directory)
        store = self.artifact_store
        io_utils.copy_dir(str(data.directory), f"{self.uri}/student", overwrite=True)
        if data.history is not None and data.history.exists():
            with store.open(f"{self.uri}/{METRICS_FILE}", "wb") as file:
                file.write(data.history.read_bytes())
        with store.open(f"{self.uri}/student.json", "w") as file:
            decision = None if data.decision is None else data.decision.model_dump(mode="json")
            record = {"variant": data.variant, "metrics": data.metrics, "decision": decision}
            json.dump(record, file, indent=2)

    def load(self, data_type: type[Any]) -> Student:
        """Return the student; its folder is the stored one where the store is a folder of this machine."""
        root = Path(self.uri)
        if not root.is_dir():
            root = Path(tempfile.mkdtemp(prefix="student-"))
            io_utils.copy_dir(self.uri, str(root), overwrite=True)
        record = json.loads((root / "student.json").read_text(encoding="utf-8"))
        history = root / METRICS_FILE
        return Student(
            directory=root / "student",
            variant=record["variant"],
            metrics=record["metrics"],
            history=history if history.exists() else None,
            decision=Decision.model_validate(record["decision"]) if record.get("decision") else None,
        )

    def compute_content_hash(self, data: Student) -> str | None:
        """Return the hash of the weights, configuration and tokenizer: equal students are equal inputs."""
        decision = None if data.decision is None else data.decision.identity
        return digest_of([data.variant, digest_of_directory(data.directory), decision])

    def save_visualizations(self, data: Student) -> dict[str, VisualizationType]:
        """Write the training curves as a page, so that a student can be judged before the evaluation."""
        from distillation.report.histories import read_history

        page = curves_page(data.variant, read_history(data.history)) if data.history is not None else None
        if page is None:
            return {}
        place = f"{self.uri}/curves.html"
        with self.artifact_store.open(place, "w") as file:
            file.write(page)
        return {place: VisualizationType.HTML}

    def extract_metadata(self, data: Student) -> dict[str, MetadataType]:
        """Return what the dashboard shows beside the artifact."""
        size = sum(file.stat().st_size for file in data.directory.rglob("*") if file.is_file())
        figures = {name.replace("/", "_"): value for name, value in data.metrics.items()}
        return {"variant": data.variant, "size_in_bytes": size, **figures}


def curves_page(variant: str, history: History) -> str | None:
    """Return the loss and the held-out bits per byte over the tokens seen; None if the log has neither."""
    from distillation.report.figures import as_svg, training_figure

    drawings = []
    for metric, title in _CURVES.items():
        figure = training_figure({variant: history}, metric, title)
        if figure is not None:
            drawings.append(f"<h2>{title}</h2>{as_svg(figure, title)}")
    if not drawings:
        return None
    style = "body{font-family:system-ui,sans-serif;margin:1.5rem;max-width:40rem}svg{width:100%}"
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(variant)}</title><style>{style}</style>'
    return "\n".join([head, *drawings])


def check_student_directory(directory: Path) -> None:
    """Check that a saved student can be read without pickle.

    Raises:
        JobError: weights are missing, or a file is of a kind that may hold code.
    """
    names = [file.name for file in directory.rglob("*") if file.is_file()] if directory.is_dir() else []
    risky = [name for name in names if name.endswith(_FORBIDDEN)]
    if risky:
        raise JobError(f"student {directory}: {risky[0]} may hold code; save with safetensors only")
    if not any(name.endswith(".safetensors") for name in names) or "config.json" not in names:
        raise JobError(f"student {directory}: no safetensors weights with a config.json; run the job again")
