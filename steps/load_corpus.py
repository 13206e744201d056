"""Step `load_corpus`: text from the first source that passes the data contract."""

from __future__ import annotations

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from distillation.config import CorpusSettings, ModelReference, TrackingSettings
from distillation.corpus.corpus import CorpusReport
from steps.caching import CORPUS_CACHE
from steps.types import Corpus
from tracking.lineage import dataset_records
from tracking.records.recording import record_pages
from tracking.records.tags import corpus_tags


@step(cache_policy=CORPUS_CACHE, output_materializers={"corpus": "materializers.corpus.CorpusMaterializer"})
def load_corpus(
    corpus: CorpusSettings,
    teacher: ModelReference,
    student: ModelReference,
    tracking: TrackingSettings,
    fingerprint: str,
) -> tuple[
    Annotated[Corpus, "corpus"],
    Annotated[CorpusReport, "corpus_report"],
    Annotated[HTMLString, "contract_page"],
]:
    """Load, split and check the documents; `fingerprint` stands for the content of the sources."""
    from distillation.corpus.loading import load_corpus as load
    from distillation.models.load import load_tokenizer

    tokenizers = {
        "teacher": load_tokenizer(teacher, "teacher"),
        "student": load_tokenizer(student, "student"),
    }
    loaded = load(corpus, tokenizers)
    report = loaded.report
    record_pages(
        tracking,
        {
            "corpus/contract.html": loaded.contract_page,
            "corpus/report.json": report.model_dump_json(indent=2),
        },
        corpus_tags(report),
        dataset_records(report, corpus.sources),
    )
    return loaded, report, HTMLString(loaded.contract_page)
