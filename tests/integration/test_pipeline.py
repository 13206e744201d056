"""The main job end to end on the tiny pair: results, records, cache."""

from __future__ import annotations

import shutil
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
    assert tags["device"] == "cpu"
    assert tags["package_version"]
    assert "bits per byte" in tags["mlflow.note.content"] or "gap" in tags["mlflow.note.content"]
    assert contexts_of(parent) == {"training", "evaluation"}
    files = {
        file.path
        for folder in ("", "audit", "corpus", "figures", "probes")
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
        "models.json",
        "figures/bits_per_byte.png",
    } <= files
    nested = nested_runs(client, parent)
    assert len(nested) == 3
    assert {run.data.tags["variant"] for run in nested} == {"distilled", "text_only", "truncate"}
    for run in nested:
        check_nested(client, run, parent)
        assert "reused" not in run.data.tags


def contexts_of(run: Any) -> set[str]:
    return {one.tags[0].value for one in run.inputs.dataset_inputs}


def nested_runs(client: Any, parent: Any) -> list[Any]:
    return list(
        client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    )


def check_nested(client: Any, run: Any, parent: Any) -> None:
    """Check that a student's run has its curves over the tokens seen, and figures named as every other's."""
    assert run.info.status == "FINISHED"
    assert run.data.tags["held_out"] == parent.data.tags["held_out"]
    assert run.data.tags["device"] == "cpu"
    assert contexts_of(run) == {"training", "evaluation"}
    metrics = run.data.metrics
    assert {"train/cross_entropy", "optimizer/learning_rate", "optimizer/gradient_norm"} <= set(metrics)
    history = client.get_metric_history(run.info.run_id, "train/loss")
    steps = client.get_metric_history(run.info.run_id, "progress/optimizer_step")
    assert [int(one.value) for one in steps if one.step == history[-1].step][-1] == 4
    assert history[-1].step == metrics["progress/tokens_seen"] > 4
    bits = parent.data.metrics[f"{run.data.tags['variant']}.bits_per_byte"]
    assert metrics["test/bits_per_byte"] == bits


def test_planted_secrets_reached_nothing(first_run: Any, workplace: Any) -> None:
    folders = (workplace.root / "zenml", workplace.root / "outputs")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in workplace.secrets.values():
            assert secret.encode() not in content, f"{secret} stands in {path}"


def test_artifacts_hold_no_pickle(first_run: Any, workplace: Any) -> None:
    names = [path.name for path in (workplace.root / "zenml").rglob("*") if path.is_file()]
    assert any(name == "model.safetensors" for name in names)
    assert any(name == "aligner.safetensors" for name in names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin", ".joblib"))]


def test_a_second_identical_run_is_wholly_cached_and_says_the_same(
    first_run: Any, workplace: Any, zenml: Callable[..., Any], statuses: Callable[[], dict[str, str]]
) -> None:
    outputs = workplace.root / "outputs"
    aside = outputs.rename(workplace.root / "aside")  # as if somebody had tidied up
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config(), "-s", "local")
    assert result.exit_code == 0, result.output
    assert (outputs / "report.html").read_text() == (aside / "report.html").read_text()
    shutil.rmtree(outputs)
    aside.rename(outputs)
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
    client = workplace.recorder().client
    nested = {run.data.tags["variant"]: run for run in nested_runs(client, newest)}
    assert set(nested) == {"distilled", "text_only", "truncate"}
    for run in nested.values():
        check_nested(client, run, newest)
    assert {name for name, run in nested.items() if "reused" in run.data.tags} == {"text_only"}
    assert nested["text_only"].info.run_name == "text_only: 1 cross_entropy seed 0"
    assert nested["distilled"].info.run_name == "distilled: prefix 0.1 cross_entropy + 0.9 reverse_kl seed 0"
    assert nested["text_only"].data.params["objective.terms.cross_entropy"] == "1.0"
    assert nested["text_only"].data.params["objective.terms.reverse_kl"] == "0.0"


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
