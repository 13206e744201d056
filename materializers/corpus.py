"""A corpus as an artifact: Parquet, the report as JSON, the contract's page as HTML. No pickle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.utils import io_utils

from distillation.corpus.corpus import PAGE_FILE, Corpus, read_corpus, write_corpus_files
from distillation.errors import shorten
from distillation.fingerprint import digest_of

if TYPE_CHECKING:
    from zenml.metadata.metadata_types import MetadataType


class CorpusMaterializer(BaseMaterializer):
    """Keeps a `Corpus` in the artifact store."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Corpus,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: Corpus) -> None:
        """Write the corpus's files into the artifact."""
        with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
            write_corpus_files(data, Path(folder))
            for path in sorted(Path(folder).iterdir()):
                with self.artifact_store.open(f"{self.uri}/{path.name}", "wb") as file:
                    file.write(path.read_bytes())

    def load(self, data_type: type[Any]) -> Corpus:
        """Read the corpus back; documents that are not those of the report are refused."""
        root = Path(self.uri)
        if root.is_dir():
            return read_corpus(root)
        with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
            io_utils.copy_dir(self.uri, folder, overwrite=True)
            return read_corpus(Path(folder))

    def save_visualizations(self, data: Corpus) -> dict[str, VisualizationType]:
        """Show the data contract's page in the dashboard; `save` has written it."""
        return {f"{self.uri}/{PAGE_FILE}".replace("\\", "/"): VisualizationType.HTML}

    def extract_metadata(self, data: Corpus) -> dict[str, MetadataType]:
        """Return what the dashboard shows beside the artifact."""
        report = data.report
        return {
            "corpus_source": report.source,
            "fallback_reason": " | ".join(report.fallback_reasons),
            "left_out": shorten("; ".join(one.describe() for one in report.left_out), 2000),
            "num_train_documents": report.num_train_documents,
            "num_held_out_documents": report.num_held_out_documents,
            "train_bytes": report.train_bytes,
            "held_out_bytes": report.held_out_bytes,
            "train_fingerprint": report.train_fingerprint,
            "held_out_fingerprint": report.held_out_fingerprint,
        }

    def compute_content_hash(self, data: Corpus) -> str | None:
        """Return the hash of the source and its documents: equal ones are equal inputs of later steps."""
        report = data.report
        return digest_of([report.source, report.train_fingerprint, report.held_out_fingerprint])
