"""A student in MLflow's registry: loads through MLflow and through transformers, and generates text."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillation.errors import PromotionError
from tracking.registry import (
    HELD_OUT_TAG,
    MISSING_TAG,
    MODEL_URI_TAG,
    PIPELINE_ROLE,
    ROLE_TAG,
    current_champion,
    finished_runs,
    register_champion,
)
from tracking.runs import Recorder, RunSpec
from tracking.students import log_student


def finished_run(recorder: Recorder, key: str, student: Path, bits: float) -> str:
    run_id = recorder.open(RunSpec(key, key, {ROLE_TAG: PIPELINE_ROLE}))
    recorder.log_metrics(run_id, {"distilled.bits_per_byte": bits}, time_ms=1_700_000_000_000)
    uri = log_student(recorder, run_id, student, metadata={"variant": "distilled"})
    recorder.set_tags(run_id, {MODEL_URI_TAG: uri, MISSING_TAG: "", HELD_OUT_TAG: "set-a"})
    recorder.close(run_id)
    return run_id


def test_the_champion_loads_and_generates(
    tracking_uri: str, tiny_student_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recorder = Recorder(tracking_uri, "first")
    assert current_champion(recorder, "student") is None
    run_id = finished_run(recorder, "one", tiny_student_dir, 2.0)
    [candidate] = finished_runs(recorder)
    assert candidate.run_id == run_id
    assert candidate.metrics == {"distilled.bits_per_byte": 2.0}
    assert register_champion(recorder, candidate, "student", "# Card\n\nText.\n") == "1"
    champion = current_champion(recorder, "student")
    assert champion is not None
    assert (champion.run_id, champion.version, champion.held_out_fingerprint) == (run_id, "1", "set-a")

    finished_run(recorder, "two", tiny_student_dir, 1.9)
    second = finished_runs(recorder)[0]
    assert register_champion(recorder, second, "student", "# Card 2") == "2"
    champion = current_champion(recorder, "student")
    assert champion is not None
    assert champion.run_name == "two"

    mlflow.set_tracking_uri(tracking_uri)
    try:
        generate = mlflow.transformers.load_model("models:/student@champion")
        folder = Path(mlflow.artifacts.download_artifacts("models:/student@champion"))
    finally:
        mlflow.set_tracking_uri("")
    text = generate("The function", max_new_tokens=5)[0]["generated_text"]
    assert text.startswith("The function")
    assert len(text) > len("The function")
    assert (folder / "README.md").read_text() == "# Card 2"
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer("The function", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3).shape[1] > ids["input_ids"].shape[1]
    assert not list(folder.rglob("*.bin"))
    assert not list(folder.rglob("*.pkl"))


def test_an_experiment_without_finished_runs_is_named(tracking_uri: str) -> None:
    recorder = Recorder(tracking_uri, "empty")
    with pytest.raises(PromotionError, match="experiment = empty: no finished run"):
        finished_runs(recorder)
    recorder.open(RunSpec("running", "running", {ROLE_TAG: PIPELINE_ROLE}))
    with pytest.raises(PromotionError, match="no finished run"):
        finished_runs(recorder)
