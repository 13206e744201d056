"""Promotion end to end: the gate, the champion in MLflow, ZenML and its folder, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PROMOTION = "pipelines.promotion.promotion_pipeline"
EXPERIMENT = "promotion"


def recorder_of(workplace: Any) -> Any:
    """Return a recorder on an experiment of these tests alone."""
    from tracking.runs import Recorder

    return Recorder(workplace.recorder().uri, EXPERIMENT)


def parents(workplace: Any) -> list[Any]:
    """Return the MLflow runs of pipelines, newest first."""
    recorder = recorder_of(workplace)
    return list(
        recorder.client.search_runs(
            [recorder.experiment_id()], "tags.role = 'pipeline'", order_by=["attributes.start_time DESC"]
        )
    )


def promotion_config(workplace: Any) -> str:
    settings = {"experiment": EXPERIMENT, "must_beat": {"text_only.bits_per_byte": 0.01}}
    return workplace.config("promote.yaml", settings)


def promote(workplace: Any, zenml: Callable[..., Any]) -> Any:
    return zenml("pipeline", "run", PROMOTION, "-c", promotion_config(workplace), "-s", "local")


def set_figures(workplace: Any, run_id: str, distilled: float, text_only: float, minute: int) -> None:
    """Overwrite a run's figures: what a longer training would have measured."""
    recorder_of(workplace).log_metrics(
        run_id,
        {
            "distilled.bits_per_byte": distilled,
            "text_only.bits_per_byte": text_only,
            "distilled.advantage_low": 1 - distilled / text_only,
        },
        time_ms=4_000_000_000_000 + 60_000 * minute,
    )
    recorder_of(workplace).set_tags(run_id, {"evaluation.missing": ""})


def champion_run(workplace: Any) -> str | None:
    from tracking.registry import current_champion

    champion = current_champion(recorder_of(workplace), "student")
    return None if champion is None else champion.run_id


@pytest.fixture(scope="module")
def two_runs(workplace: Any) -> tuple[str, str]:
    """Two finished runs with students that differ in their seed."""
    from pipelines.command import run_command
    from pipelines.distillation import distillation_pipeline

    changes = [f"tracking.experiment={EXPERIMENT}", "training.max_steps=2"]
    changes += ["evaluation.controls=[text_only]", "evaluation.tasks=[]"]
    for seed in (6, 7):
        command = ["-c", workplace.config(), f"seed={seed}", *changes]
        assert run_command(distillation_pipeline, command) == 0
    newest, before = (run.info.run_id for run in parents(workplace))
    return before, newest


def test_only_a_better_student_is_promoted(
    two_runs: tuple[str, str], workplace: Any, zenml: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from zenml.client import Client

    good, worse = two_runs
    for run in parents(workplace):
        set_figures(workplace, run.info.run_id, 2.10, 2.00, minute=1)
    refused = promote(workplace, zenml)
    assert refused.exit_code == 1
    assert "distilled.bits_per_byte = 2.1000" in refused.output
    assert "text_only.bits_per_byte = 2.0000" in refused.output
    assert "Traceback" not in refused.output
    assert champion_run(workplace) is None

    set_figures(workplace, worse, 1.90, 2.00, minute=2)
    accepted = promote(workplace, zenml)
    assert accepted.exit_code == 0, accepted.output
    assert "models:/student@champion (version 1)" in accepted.output
    assert "measurable advantage: distilled.advantage_low = 0.0500" in accepted.output
    assert champion_run(workplace) == worse
    version = Client().get_model_version("student", "production")
    assert version.run_metadata["mlflow_version"] == "1"

    # Better than its control, and not better than the champion: it stays as challenger.
    set_figures(workplace, good, 1.95, 2.00, minute=3)
    refused = promote(workplace, zenml)
    assert refused.exit_code == 1
    for words in ("1.9500", "1.9000", "better than the champion", "models:/student@challenger (version 2)"):
        assert words in refused.output
    assert "Traceback" not in refused.output
    assert champion_run(workplace) == worse
    assert Client().get_model_version("student", "staging").run_metadata["mlflow_version"] == "2"

    folder = workplace.root / "outputs" / "champion"
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)("The function", return_tensors="pt")
    assert (
        model.generate(**inputs, max_new_tokens=3, eos_token_id=None).shape[1] > inputs["input_ids"].shape[1]
    )
    card = (folder / "README.md").read_text()
    run = recorder_of(workplace).client.get_run(worse)
    for words in (
        "## Promotion",
        "| better than text_only | yes | distilled.bits_per_byte = 1.9000",
        "| text_only.bits_per_byte | 2 |",
        f"digest `{run.data.tags['teacher_digest']}`",
        run.data.tags["held_out"],
        "torch 2.",
        worse,
        "seed: 7",
    ):
        assert words in card
    assert str(workplace.root) not in card  # folders of this machine are nobody's business


def test_rollback_and_publishing_by_one_command(
    two_runs: tuple[str, str], workplace: Any, zenml: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    from zenml.client import Client

    from pipelines.champion import ACTIONS
    from pipelines.command import run_command
    from pipelines.promotion import promotion_pipeline
    from tracking.export import read_mark

    good, worse = two_runs
    folder = workplace.root / "outputs" / "champion"
    command = ["-c", promotion_config(workplace)]

    set_figures(workplace, good, 1.70, 2.00, minute=4)
    accepted = promote(workplace, zenml)
    assert accepted.exit_code == 0, accepted.output
    assert champion_run(workplace) == good
    assert Client().get_model_version("student", "production").name == "student-2"
    mark = read_mark(folder)
    assert mark is not None
    assert mark.run_id == good

    (folder / "model.safetensors").unlink()
    assert run_command(promotion_pipeline, [*command, "--publish"], ACTIONS) == 0
    assert (folder / "model.safetensors").exists()

    capfd.readouterr()
    assert run_command(promotion_pipeline, [*command, "--rollback"], ACTIONS) == 0
    told = capfd.readouterr().out
    assert "Rolled back: version 2" in told
    assert "is models:/student@champion (version 1)" in told
    assert "mlflow.transformers.load_model('models:/student@champion')" in told
    assert champion_run(workplace) == worse
    assert Client().get_model_version("student", "production").name == "student-1"
    mark = read_mark(folder)
    assert mark is not None
    assert mark.run_id == worse

    assert run_command(promotion_pipeline, [*command, "--rollback"], ACTIONS) == 1
    assert "Error: model_name = student: nothing to go back to, version 1" in capfd.readouterr().err
    again = promote(workplace, zenml)  # the best run by its figures is the one that was rolled back
    assert again.exit_code == 1
    assert champion_run(workplace) == worse


def test_what_a_promotion_needs_is_checked_first(workplace: Any, capfd: pytest.CaptureFixture[str]) -> None:
    from pipelines.champion import ACTIONS
    from pipelines.command import run_command
    from pipelines.promotion import promotion_pipeline

    (workplace.root / "mine").mkdir()
    (workplace.root / "mine" / "notes.txt").write_text("keep me")
    command = ["-c", promotion_config(workplace)]
    for override, words in (
        ("export_dir=mine", "export_dir = mine: it holds other files"),
        ("hub_repository=team/student", "hub_repository = team/student: HF_HUB_OFFLINE forbids it"),
        ("must_beat={text_only.accuracy: 0.1}", "must_beat.text_only.accuracy"),
    ):
        capfd.readouterr()
        assert run_command(promotion_pipeline, [*command, override], ACTIONS) == 1
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1
        assert words in errors[0]
