"""Runs are found again by their key, and settings become parameters without secrets."""

from __future__ import annotations

from pydantic import BaseModel

from distillation.config import Settings
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
