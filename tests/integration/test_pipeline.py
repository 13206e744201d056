"""The main job end to end on the tiny pair: results, records, cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PIPELINE = "pipelines.distillation.distillation_pipeline"
STEPS = {
    "load_corpus",
    "probe_models",
    "build_aligner",
    "distill_student_distilled",
    "distill_student_text_only",
    "distill_student_truncate",
    "evaluate_student",
}


@pytest.fixture(scope="module")
def first_run(workplace: Any, zenml: Callable[..., Any]) -> Any:
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config(), "-s", "local")
    assert result.exit_code == 0, result.output
    return result


def parents(workplace: Any) -> list[Any]:
    """Return the MLflow runs of pipelines, newest first."""
    recorder = workplace.recorder()
    return list(
        recorder.client.search_runs(
            [recorder.experiment_id()], "tags.role = 'pipeline'", order_by=["attributes.start_time DESC"]
        )
    )


def test_the_table_and_the_next_commands_are_printed(
    first_run: Any, workplace: Any, statuses: Callable[[], dict[str, str]]
) -> None:
    assert set(statuses()) == STEPS
    assert set(statuses().values()) == {"completed"}
    for words in (
        "bits/byte",
        "distilled student",
        "text-only",
        "teacher",
        "make ui",
        "make promote",
    ):
        assert words in first_run.output
    assert first_run.output.count("bits/byte") == 2  # the heading and its explanation: one table
    report = workplace.root / "outputs" / "report.html"
    assert str(report) in first_run.output
    assert report.read_text().lstrip().lower().startswith("<!doctype html")


def test_mlflow_holds_everything_side_by_side(first_run: Any, workplace: Any) -> None:
    [parent] = parents(workplace)
    client = workplace.recorder().client
    assert parent.info.status == "FINISHED"
    assert {"distilled.bits_per_byte", "text_only.bits_per_byte", "teacher.bits_per_byte"} <= set(
        parent.data.metrics
    )
    assert parent.data.params["objective.terms.forward_kl"] == "0.9"
    tags = parent.data.tags
    assert (tags["aligner"], tags["seed"], tags["variant"]) == ("prefix", "0", "distilled")
    assert tags["corpus_source"] == "documentation"
    assert len(tags["held_out"]) == 16
    files = {
        file.path
        for folder in ("", "audit", "corpus", "probes")
        for file in client.list_artifacts(parent.info.run_id, folder)
    }
    assert {
        "report.html",
        "evaluation.json",
        "settings.json",
        "audit/audit.html",
        "audit/audit.json",
        "corpus/contract.html",
        "probes/teacher.json",
        "probes/probes.html",
    } <= files
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert {run.data.tags["variant"] for run in nested} == {"distilled", "text_only", "truncate"}
    for run in nested:
        assert run.info.status == "FINISHED"
        assert run.data.tags["held_out"] == tags["held_out"]
        assert {"cross_entropy", "learning_rate", "grad_norm"} <= set(run.data.metrics)


def test_artifacts_hold_no_pickle(first_run: Any, workplace: Any) -> None:
    names = [path.name for path in (workplace.root / "zenml").rglob("*") if path.is_file()]
    assert any(name == "model.safetensors" for name in names)
    assert any(name == "aligner.safetensors" for name in names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin", ".joblib"))]


def test_a_second_identical_run_is_wholly_cached_and_says_the_same(
    first_run: Any, workplace: Any, zenml: Callable[..., Any], statuses: Callable[[], dict[str, str]]
) -> None:
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config(), "-s", "local")
    assert result.exit_code == 0, result.output
    assert set(statuses().values()) == {"cached"}
    assert "7 of 7 steps came from the cache" in result.output
    table = [line for line in first_run.output.splitlines() if "distilled student  " in line]
    assert table
    assert table[0] in result.output
    assert len(parents(workplace)) == 1  # nothing happened, so nothing is recorded


def test_another_objective_reuses_all_that_does_not_depend_on_it(
    first_run: Any, workplace: Any, capfd: pytest.CaptureFixture[str], statuses: Callable[[], dict[str, str]]
) -> None:
    from pipelines.command import run_command
    from pipelines.distillation import distillation_pipeline

    assert (
        run_command(
            distillation_pipeline,
            ["-c", workplace.config(), "objective.terms={cross_entropy: 0.1, reverse_kl: 0.9}"],
        )
        == 0
    )
    reused = {"load_corpus", "probe_models", "build_aligner", "distill_student_text_only"}
    assert {name for name, status in statuses().items() if status == "cached"} == reused
    newest, first = parents(workplace)
    assert newest.data.params["objective.terms.reverse_kl"] == "0.9"
    assert newest.data.tags["objective"] == "0.1 cross_entropy + 0.9 reverse_kl"
    assert newest.data.metrics["text_only.bits_per_byte"] == pytest.approx(
        first.data.metrics["text_only.bits_per_byte"], rel=1e-6
    )


def test_edited_code_runs_its_step_again_and_no_other(
    first_run: Any,
    workplace: Any,
    zenml: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    statuses: Callable[[], dict[str, str]],
) -> None:
    monkeypatch.setattr("steps.caching.alignment_code", lambda: "edited")
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config(), "-s", "local")
    assert result.exit_code == 0, result.output
    # The new aligner has the content of the old one, so what depends on it is still in the cache.
    done = {name for name, status in statuses().items() if status == "completed"}
    assert done <= {"build_aligner", "evaluate_student"}
    assert "build_aligner" in done
    recorder = workplace.recorder()
    runs = recorder.client.search_runs([recorder.experiment_id()], "attributes.status = 'RUNNING'")
    assert not runs  # a run that was opened for the one step is ended, and does not compete
