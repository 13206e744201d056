"""Runs say which documents they were made of, in a form that leads back to the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillation.config import Settings, parse_settings
from distillation.corpus.corpus import CorpusReport
from tracking.lineage import dataset_records
from tracking.runs import Recorder, RunSpec


def report_of(source: str, kind: str) -> CorpusReport:
    return CorpusReport(
        source=source,
        source_kind=kind,
        num_documents_read=400,
        num_short_dropped=3,
        num_duplicates_dropped=2,
        num_contaminated_dropped=1,
        num_train_documents=354,
        num_held_out_documents=40,
        train_bytes=900_000,
        held_out_bytes=90_000,
        duplicate_share=0.005,
        leaked_share=0.02,
        train_fingerprint="a" * 16,
        held_out_fingerprint="b" * 16,
    )


def inputs_of(recorder: Recorder, run_id: str) -> list[Any]:
    found = recorder.client.get_run(run_id).inputs.dataset_inputs
    return sorted(found, key=lambda one: one.tags[0].value, reverse=True)


@pytest.fixture
def recorder(tracking_uri: str) -> Recorder:
    return Recorder(tracking_uri, "e")


def test_a_fallback_is_recorded_as_what_was_read(recorder: Recorder, tmp_path: Path) -> None:
    import mlflow.data

    file = tmp_path / "notes.txt"
    settings: Settings = parse_settings(
        {"corpus": {"sources": ["wikitext", {"kind": "file", "path": str(file)}, "documentation"]}}
    )
    records = dataset_records(report_of(f"file {str(file)!r}", "file"), settings.corpus.sources)
    run_id = recorder.open(RunSpec("k", "k", datasets=records))
    for _ in range(2):
        recorder.log_datasets(run_id, records)
    training, evaluation = inputs_of(recorder, run_id)
    assert (training.tags[0].key, training.tags[0].value) == ("mlflow.data.context", "training")
    assert evaluation.tags[0].value == "evaluation"
    assert (training.dataset.name, training.dataset.digest) == ("notes.txt train", "a" * 16)
    assert (evaluation.dataset.name, evaluation.dataset.digest) == ("notes.txt held-out", "b" * 16)
    assert json.loads(training.dataset.profile) == {"num_rows": 354, "num_bytes": 900_000}
    assert json.loads(evaluation.dataset.profile) == {"num_rows": 40, "num_bytes": 90_000}
    columns = json.loads(training.dataset.schema)["mlflow_colspec"]
    assert [column["name"] for column in columns] == ["text", "document_id", "origin"]
    assert Path(mlflow.data.get_source(training).uri) == file


def test_a_hub_dataset_can_be_found_again_at_its_revision(recorder: Recorder) -> None:
    import mlflow.data

    settings: Settings = parse_settings({"corpus": {"sources": ["openwebtext", "wikitext"]}})
    wikitext = settings.corpus.sources[1]
    described = f"hub Salesforce/wikitext/wikitext-2-raw-v1 split train revision {wikitext.revision}"  # type: ignore[union-attr]
    records = dataset_records(report_of(described, "hub"), settings.corpus.sources)
    run_id = recorder.open(RunSpec("k", "k", datasets=records))
    source = mlflow.data.get_source(inputs_of(recorder, run_id)[0])
    assert (source.path, source.config_name) == ("Salesforce/wikitext", "wikitext-2-raw-v1")
    assert (source.split, source.revision) == ("train", wikitext.revision)  # type: ignore[union-attr]
    assert records[0].name == "Salesforce/wikitext/wikitext-2-raw-v1 train"


def test_documentation_and_conversations_are_described(recorder: Recorder) -> None:
    import platform

    plain: Settings = parse_settings({})
    records = dataset_records(report_of("documentation", "documentation"), plain.corpus.sources)
    assert [record.name for record in records] == ["documentation train", "documentation held-out"]
    assert json.loads(records[0].source)["python"] == platform.python_version()
    chat: Settings = parse_settings(
        {"corpus": {"sources": [{"kind": "file", "path": "c.jsonl", "messages_column": "messages"}]}}
    )
    records = dataset_records(report_of("file 'c.jsonl' as conversations", "file"), chat.corpus.sources)
    assert "messages" in records[0].schema
    run_id = recorder.open(RunSpec("k", "k"))
    recorder.log_datasets(run_id, records)
    assert len(inputs_of(recorder, run_id)) == 2
