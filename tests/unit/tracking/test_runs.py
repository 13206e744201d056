"""Runs are found again by their key, and settings become parameters without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from distillation.config import Settings
from tracking.lineage import DatasetRecord
from tracking.runs import Recorder, RunSpec, flat_params

PARENT = RunSpec("p", "parent", {"role": "pipeline"}, flat_params(Settings()))
CHILD = RunSpec("p distilled", "distilled", {"variant": "distilled"})


def test_a_run_is_opened_once_whoever_asks(tracking_uri: str) -> None:
    first = Recorder(tracking_uri, "e").open(CHILD, PARENT)
    recorder = Recorder(tracking_uri, "e")
    assert recorder.open(CHILD, PARENT) == first
    run = recorder.client.get_run(first)
    assert run.data.tags["mlflow.parentRunId"] == recorder.open(PARENT)
    assert len(recorder.client.search_runs([recorder.experiment_id()])) == 2
    params = recorder.client.get_run(recorder.open(PARENT)).data.params
    assert params["training.batch_size"] == "8"
    assert params["objective.terms.forward_kl"] == "0.9"


def test_runs_nest_as_deep_as_they_are_described(tracking_uri: str) -> None:
    comparison = RunSpec("c", "comparison")
    variant = RunSpec("c prefix", "prefix", parent=comparison)
    seeds = [RunSpec(f"c prefix {seed}", f"seed {seed}", parent=variant) for seed in (0, 1)]
    recorder = Recorder(tracking_uri, "e")
    ids = [recorder.open(RunSpec.from_json(json.loads(json.dumps(seed.to_json())))) for seed in seeds]
    assert len(set(ids)) == 2

    def above(run_id: str) -> str | None:
        parent_id = recorder.client.get_run(run_id).data.tags.get("mlflow.parentRunId")
        return parent_id and str(parent_id)

    assert {above(run_id) for run_id in ids} == {recorder.open(variant)}
    assert above(recorder.open(variant)) == recorder.open(comparison)
    assert above(recorder.open(comparison)) is None
    assert len(recorder.client.search_runs([recorder.experiment_id()])) == 4


def test_a_specification_survives_its_file_and_old_files_are_read() -> None:
    record = DatasetRecord("text train", "a" * 16, "training", "local", "{}", "{}", "{}")
    spec = RunSpec("k", "name", {"a": "b"}, {"c": "d"}, (record,), PARENT)
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert RunSpec.from_json({"key": "k", "name": "n", "tags": {}, "params": {}}) == RunSpec("k", "n")
    with pytest.raises(TypeError):
        RunSpec.from_json({"key": "k"})


def test_final_figures_can_be_written_again(tracking_uri: str) -> None:
    recorder = Recorder(tracking_uri, "e")
    run_id = recorder.open(PARENT)
    for _ in range(2):
        recorder.log_metrics(run_id, {"distilled.bits_per_byte": 2.0}, time_ms=1_700_000_000_000)
    recorder.log_text(run_id, "<p>report</p>", "report.html")
    recorder.close(run_id)
    assert len(recorder.client.get_metric_history(run_id, "distilled.bits_per_byte")) == 1
    assert [file.path for file in recorder.client.list_artifacts(run_id)] == ["report.html"]
    assert recorder.client.get_run(run_id).info.status == "FINISHED"


def read(recorder: Recorder, run_id: str, path: str, folder: Path) -> bytes:
    return Path(recorder.client.download_artifacts(run_id, path, str(folder))).read_bytes()


def test_a_table_is_written_once_in_the_form_that_mlflow_shows(tracking_uri: str, tmp_path: Path) -> None:
    import mlflow

    recorder = Recorder(tracking_uri, "e")
    run_id = recorder.open(PARENT)
    columns: dict[str, list[Any]] = {"model": ["a", "b"], "bits": [2.0, float("nan")], "gap": [None, 0.5]}
    for _ in range(2):
        recorder.log_table(run_id, columns)
    recorder.log_table(run_id, {"seed": [0]}, "seeds.json")
    tag = json.loads(recorder.client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert tag == [{"path": name, "type": "table"} for name in ("comparison.json", "seeds.json")]
    table = json.loads(read(recorder, run_id, "comparison.json", tmp_path))
    assert table == {"columns": ["model", "bits", "gap"], "data": [["a", 2.0, None], ["b", None, 0.5]]}
    mlflow.set_tracking_uri(tracking_uri)
    try:
        loaded = recorder.client.load_table(recorder.experiment_id(), "comparison.json", [run_id])
    finally:
        mlflow.set_tracking_uri("")
    assert list(loaded["model"]) == ["a", "b"]
    with pytest.raises(ValueError, match="shorter"):
        recorder.log_table(run_id, {"a": [1, 2], "b": [1]})


def test_pictures_and_the_description(tracking_uri: str, tmp_path: Path) -> None:
    recorder = Recorder(tracking_uri, "e")
    run_id = recorder.open(PARENT)
    for content in (b"old", b"\x89PNG\r\n"):
        recorder.log_bytes(run_id, content, "figures/bits.png")
        recorder.log_bytes(run_id, content, "top.png")
        recorder.note(run_id, f"**{len(content)}**")
    assert read(recorder, run_id, "figures/bits.png", tmp_path) == b"\x89PNG\r\n"
    assert read(recorder, run_id, "top.png", tmp_path) == b"\x89PNG\r\n"
    assert recorder.client.get_run(run_id).data.tags["mlflow.note.content"] == "**6**"


def test_planted_secrets_reach_no_part_of_the_store(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "HF_TOKEN": "hf_planted0123456789",
        "KAGGLE_KEY": "0123456789abcdefplanted",
        "MLFLOW_TRACKING_PASSWORD": "planted-pass",
        "AWS_SECRET_ACCESS_KEY": "planted/secret+aws",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallelism")
    monkeypatch.setenv("HOST_KEY", "/etc/ssh/key")
    dirty = "at https://anna:hunter2@host/x with " + " and ".join(secrets.values())
    record = DatasetRecord(dirty[:200], "a" * 16, "training", "local", json.dumps(dirty), dirty, dirty)
    recorder = Recorder(tracking_uri, "e")
    spec = RunSpec("k", dirty, {"fallback_reason": dirty}, {"path": dirty}, (record,), PARENT)
    run_id = recorder.open(spec)
    recorder.log_params(run_id, {"other": dirty})
    recorder.set_tags(run_id, {"parallelism": "parallelism /etc/ssh/key", "other": dirty})
    recorder.note(run_id, dirty)
    recorder.log_text(run_id, f"<p>{dirty}</p>", "report.html")
    recorder.log_table(run_id, {"text": [dirty]})
    files = [
        file for file in Path(tracking_uri.removeprefix("sqlite:///")).parent.rglob("*") if file.is_file()
    ]
    assert {"mlflow.db", "report.html", "comparison.json"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        for secret in (*secrets.values(), "hunter2"):
            assert secret.encode() not in content, f"{secret} stands in {file.name}"
    tags = recorder.client.get_run(run_id).data.tags
    assert tags["parallelism"] == "parallelism /etc/ssh/key"  # no secrets, whatever they are called
    assert tags["other"] == "at https://***@host/x with *** and *** and *** and ***"


def test_settings_are_flat_and_secrets_masked() -> None:
    class Section(BaseModel):
        api_token: str = "abc"
        num_new_tokens: int = 3
        names: tuple[str, ...] = ("a", "b")

    class Whole(BaseModel):
        inner: Section = Section()
        nothing: None = None

    assert flat_params(Whole()) == {
        "inner.api_token": "***",
        "inner.num_new_tokens": "3",
        "inner.names": '["a", "b"]',
        "nothing": "null",
    }
