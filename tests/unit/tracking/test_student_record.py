"""The last step's records: one table, and nested runs that say what each student was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillation.config import CONTROLS, Settings, parse_settings
from distillation.metrics_log import sealed_line
from tracking.runs import Recorder, RunSpec, flat_params


def test_the_table_has_one_row_a_model_and_figures_to_read(make_evaluation: Callable[..., Any]) -> None:
    from tracking.records.student_record import comparison_columns

    columns = comparison_columns(make_evaluation(text_only=2.28123456, distilled=2.1, teacher=1.54))
    assert columns["model"] == ["text_only", "distilled", "teacher"]
    assert columns["bits_per_byte"] == [2.281, 2.1, 1.54]
    assert {len(column) for column in columns.values()} == {3}
    assert all(isinstance(count, int) for count in columns["num_parameters"])
    assert columns["top1_agreement"][2] is None  # of the teacher with itself


def test_controls_are_described_by_what_they_were_trained_with() -> None:
    settings: Settings = parse_settings(
        {"objective": {"terms": {"reverse_kl": 0.9, "hidden": 0.1}}, "alignment": {"strategy": "shared"}}
    )
    params = flat_params(CONTROLS["text_only"].settings(settings))
    assert (params["objective.terms.reverse_kl"], params["objective.terms.cross_entropy"]) == ("0.0", "1.0")
    params = flat_params(CONTROLS["truncate"].settings(settings))
    assert (params["objective.terms.reverse_kl"], params["objective.terms.hidden"]) == ("0.9", "0.0")
    assert params["alignment.strategy"] == "truncate"


def test_a_student_from_the_cache_gets_a_run_with_its_curves(
    tmp_path: Path, make_evaluation: Callable[..., Any]
) -> None:
    from distillation.training.student import Student
    from tracking.records.student_record import record_student

    parent = RunSpec("p", "pipeline")
    cached, trained = (RunSpec(f"p {name}", name, parent=parent) for name in ("text_only", "distilled"))
    history = tmp_path / "metrics.jsonl"
    history.write_text(sealed_line({"step": 1, "tokens": 50, "time": 1.0, "metrics": {"loss": 3.0}}))
    recorder = Recorder(f"sqlite:///{tmp_path}/mlflow.db", "e")
    client, trained_id = recorder.client, recorder.open(trained)
    evaluation = make_evaluation(text_only=2.28, distilled=2.1, teacher=1.54)
    for _ in range(2):
        for spec in (cached, trained):
            student = Student(tmp_path, spec.name, {}, history)
            record_student(recorder, spec, student, evaluation, time_ms=1_000)
    reused = client.get_run(recorder.open(cached))
    assert reused.data.tags["reused"] == "true"
    assert reused.info.status == "FINISHED"
    assert reused.data.metrics["test/bits_per_byte"] == evaluation.results["text_only"].bits_per_byte
    [point] = client.get_metric_history(reused.info.run_id, "train/loss")
    assert (point.step, point.value) == (50, 3.0)
    other = client.get_run(trained_id)
    assert other.data.metrics["test/bits_per_byte"] == evaluation.results["distilled"].bits_per_byte
    assert len(client.get_metric_history(trained_id, "test/bits_per_byte")) == 1
    assert "reused" not in other.data.tags
    assert "train/loss" not in other.data.metrics  # its forwarder's business
    assert len(client.search_runs([recorder.experiment_id()])) == 3
