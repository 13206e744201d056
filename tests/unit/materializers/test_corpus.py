"""A corpus through a real local artifact store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillation.corpus.corpus import Corpus, CorpusReport, dataset_of, fingerprint_of
from distillation.corpus.documents import Document
from distillation.errors import CorpusError


@pytest.fixture
def corpus() -> Corpus:
    train = dataset_of([Document(f"training text {i} – ü\n", f"train:{i}") for i in range(5)])
    held_out = dataset_of([Document("held-out text\n", "held:0")])
    report = CorpusReport(
        source="file 'texts'",
        source_kind="file",
        fallback_reasons=("corpus.sources[0] = hub x: out of reach",),
        num_documents_read=6,
        num_short_dropped=0,
        num_duplicates_dropped=0,
        num_contaminated_dropped=0,
        num_train_documents=5,
        num_held_out_documents=1,
        train_bytes=115,
        held_out_bytes=14,
        duplicate_share=0.0,
        leaked_share=0.0,
        train_fingerprint=fingerprint_of(train["document_id"]),
        held_out_fingerprint=fingerprint_of(held_out["document_id"]),
    )
    return Corpus(train, held_out, report, "<html>page</html>")


@pytest.fixture
def materializer(stored: Callable[[type], Any]) -> Any:
    from materializers.corpus import CorpusMaterializer

    return stored(CorpusMaterializer)


def test_round_trip_without_pickle(corpus, materializer):
    materializer.save(corpus)
    files = {path.name for path in Path(materializer.uri).iterdir()}
    assert files == {"train.parquet", "held_out.parquet", "report.json", "contract.html"}
    loaded = materializer.load(Corpus)
    assert loaded.report == corpus.report
    assert loaded.train.to_list() == corpus.train.to_list()
    assert loaded.held_out.to_list() == corpus.held_out.to_list()
    assert loaded.contract_page == corpus.contract_page


def test_page_is_shown_and_figures_are_extracted(corpus, materializer):
    materializer.save(corpus)
    (page,) = materializer.save_visualizations(corpus)
    assert Path(page).read_text() == "<html>page</html>"
    metadata = materializer.extract_metadata(corpus)
    assert metadata["corpus_source"] == "file 'texts'"
    assert "out of reach" in metadata["fallback_reason"]


def test_content_hash_follows_the_documents(corpus, materializer):
    first = materializer.compute_content_hash(corpus)
    same = Corpus(corpus.train, corpus.held_out, corpus.report, "another page")
    assert materializer.compute_content_hash(same) == first
    changed = corpus.report.model_copy(update={"train_fingerprint": "0" * 16})
    assert materializer.compute_content_hash(Corpus(corpus.train, corpus.held_out, changed, "")) != first


def test_damaged_artifact_is_refused(corpus, materializer):
    materializer.save(corpus)
    train = Path(materializer.uri, "train.parquet")
    train.write_bytes(train.read_bytes()[:-20])
    with pytest.raises(CorpusError, match="load the corpus again"):
        materializer.load(Corpus)
