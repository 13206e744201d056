"""A real comparison on the tiny pair: killed, gone on with, one variant failing, a search, one MLflow run."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PIPELINE = "pipelines.comparison.comparison_pipeline"
DIVERGING = {"training.learning_rate": 1.0, "training.weight_decay": 1e30}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(workplace: Any) -> str:
    settings = {
        **workplace.settings,
        "training": {**workplace.settings["training"], "max_steps": 2},
        "evaluation": {**workplace.settings["evaluation"], "controls": ["text_only"], "tasks": []},
        "tracking": {"experiment": "compared"},
        "comparison": {
            "seeds": [0, 1],
            "variants": [
                {"name": "cached", "changes": {"cache.kind": "sampling"}},
                {"name": "broken", "changes": DIVERGING},
            ],
            "search": {
                "num_trials": 1,
                "space": {"objective.temperature": {"low": 0.5, "high": 2.0}},
                "output_dir": str(workplace.root / "outputs" / "searches"),
            },
        },
    }
    return str(workplace.config("compare.yaml", settings))


def finished(root: Path) -> dict[Path, float]:
    """Return the job directories whose student is trained, and when it was written."""
    return {
        path.parent: (path.parent / "student" / "model.safetensors").stat().st_mtime
        for path in root.glob("outputs/jobs/*/status.json")
        if json.loads(path.read_text())["state"] == "finished"
    }


@pytest.fixture(scope="module")
def killed(workplace: Any, config: str) -> dict[Path, float]:
    """Start the comparison in a process of its own, kill it after some students, return those."""
    before = set(finished(workplace.root))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.comparison", "-c", config],
        cwd=workplace.root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while len(finished(workplace.root).keys() - before) < 3 and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.05)
    is_running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate()[0].decode()
    assert is_running, output
    return {path: when for path, when in finished(workplace.root).items() if path not in before}


@pytest.fixture(scope="module")
def second_run(killed: dict[Path, float], config: str, zenml: Callable[..., Any]) -> Any:
    result = zenml("pipeline", "run", PIPELINE, "-c", config, "-s", "local")
    assert result.exit_code == 0, result.output
    return result


def test_the_killed_run_is_closed_in_zenml(second_run: Any, workplace: Any) -> None:
    from zenml.client import Client

    runs = Client().list_pipeline_runs(pipeline="comparison_pipeline", sort_by="desc:created", hydrate=True)
    assert [run.status.value for run in runs.items] == ["completed", "stopped"]
    assert all(step.status.is_finished for run in runs.items for step in run.steps.values())


def comparison_of(workplace: Any) -> Any:
    from zenml.client import Client

    run = Client().list_pipeline_runs(pipeline="comparison_pipeline", sort_by="desc:created", size=1).items[0]
    outputs = run.steps["compare_variants"].outputs
    return outputs["comparison"][0].load()


def test_a_killed_comparison_redoes_at_most_one_student(
    killed: dict[Path, float], second_run: Any, workplace: Any
) -> None:
    assert len(killed) >= 3  # the trial and some students
    after = finished(workplace.root)
    assert {path: after[path] for path in killed} == killed
    assert len(after) > len(killed)


def test_every_variant_has_its_row_and_the_failure_is_named(second_run: Any, workplace: Any) -> None:
    comparison = comparison_of(workplace)
    names = [one.name for one in comparison.variants]
    assert names == ["text_only", "text_only of broken", "cached", "broken", "found"]
    for one in comparison.variants:
        if "broken" in one.name:
            assert set(one.failures) == {0, 1}
            continue
        assert one.seeds == (0, 1)
        assert one.bits_per_byte is not None
        assert one.bits_per_byte.mean > 0
    assert comparison.chosen in ("cached", "found")
    assert re.search(r"broken seed 0: .*training diverged", second_run.output)
    assert "Traceback" not in second_run.output
    assert "bits/byte" in second_run.output
    changes = comparison.variant("found").changes
    assert 0.5 <= changes["objective.temperature"] <= 2.0
    report = workplace.root / "outputs" / "comparison.html"
    assert str(report) in second_run.output
    page = report.read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    for words in ("The chosen student", "broken seed 1", "The search", "cached"):
        assert words in page


def test_students_of_a_seed_share_start_windows_and_steps(second_run: Any, workplace: Any) -> None:
    comparison = comparison_of(workplace)
    jobs = [
        json.loads((Path(one.job_dir) / "job.json").read_text()) for one in comparison.students if one.job_dir
    ]
    assert len({job["student_digest"] for job in jobs}) == 1
    assert len({job["corpus_digest"] for job in jobs}) == 1
    assert len({json.dumps(job["training"]) for job in jobs}) == 1
    cached = [comparison.student("cached", seed).result.bits_per_byte for seed in (0, 1)]
    assert cached[0] != cached[1]  # another seed is another order of the windows
    shards: dict[str, set[int]] = {}
    for seed in (0, 1):
        for shard in Path(comparison.student("cached", seed).job_dir).glob(
            "teacher_cache/shards/*.safetensors"
        ):
            shards.setdefault(shard.name, set()).add(os.stat(shard).st_ino)
    assert shards
    assert all(len(files) == 1 for files in shards.values())  # both seeds read the very same files


def test_mlflow_has_one_run_with_everything_below_it(second_run: Any, workplace: Any) -> None:
    from tracking.runs import Recorder

    recorder = Recorder(workplace.recorder().uri, "compared")
    runs = recorder.client.search_runs([recorder.experiment_id()], max_results=200)
    parents = [run for run in runs if run.data.tags.get("role") == "pipeline"]
    assert len(parents) == 1  # the killed one was gone on with
    [parent] = parents
    assert parent.info.status == "FINISHED"
    assert {"distilled.bits_per_byte", "text_only.bits_per_byte", "distilled.advantage_low"} <= set(
        parent.data.metrics
    )
    files = {file.path for file in recorder.client.list_artifacts(parent.info.run_id)}
    assert {
        "report.html",
        "comparison.json",
        "variants.json",
        "evaluation.json",
        "settings.json",
        "comparison",
    } <= files
    variants = {run.data.tags["variant"]: run for run in runs if run.data.tags.get("role") == "variant"}
    assert set(variants) == {"text_only", "text_only of broken", "cached", "broken", "found"}
    for name, run in variants.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == ("FAILED" if "broken" in name else "FINISHED")
        expected = {"test/bits_per_byte", "held_out/bits_per_byte", "train/cross_entropy"}
        assert (expected <= set(run.data.metrics)) == ("broken" not in name)
    assert "test/saving_low" in variants["found"].data.metrics
    students = [run for run in runs if run.data.tags.get("role") == "student"]
    named = {(run.data.tags["variant"], run.data.tags["seed"]) for run in students}
    assert {("cached", "0"), ("cached", "1"), ("found", "0"), ("text_only", "1")} <= named


def test_running_it_again_trains_nobody(second_run: Any, workplace: Any, config: str, zenml: Any) -> None:
    before = finished(workplace.root)
    kept = {path: path.stat().st_mtime for path in workplace.root.glob("outputs/jobs/*/evaluation-*.json")}
    result = zenml("pipeline", "run", PIPELINE, "-c", config, "-s", "local")
    assert result.exit_code == 0, result.output
    assert finished(workplace.root) == before
    assert {path: path.stat().st_mtime for path in kept} == kept


def test_a_stop_of_a_comparison_is_one_line(second_run: Any, workplace: Any, config: str) -> None:
    longer = ["training.max_steps=2000", "comparison.search=null"]
    command = [sys.executable, "-m", "pipelines.comparison", "-c", config, *longer]
    process = subprocess.Popen(
        command,
        cwd=workplace.root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Student 1 of"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest = process.stdout.read()
    assert process.wait(20) == 130
    assert time.monotonic() - began < 5  # three, and what a loaded machine takes
    assert "Traceback" not in rest
    assert f"stopped; the same command goes on with student 1: {shlex.join(command)}" in re.sub(
        r" at step \d+", "", rest
    )

    from zenml.client import Client

    from pipelines.killed import close_killed_runs
    from tracking.runs import Recorder

    close_killed_runs()
    assert not Client().list_pipeline_runs(in_progress=True).items
    recorder = Recorder(workplace.recorder().uri, "compared")
    runs = recorder.client.search_runs([recorder.experiment_id()], "attributes.status = 'RUNNING'")
    assert not runs


def test_a_run_that_was_killed_between_two_steps_is_closed(second_run: Any, workplace: Any) -> None:
    """All its steps have ended and others were to come: ZenML goes on calling such a run running."""
    import sqlalchemy
    from zenml.client import Client

    from pipelines.killed import close_killed_runs
    from pipelines.places import zenml_directory

    client = Client()
    run = client.list_pipeline_runs(sort_by="desc:created", status="completed", size=1, hydrate=True).items[0]
    with client.zen_store.engine.begin() as connection:
        key = {"key": run.id.hex}
        for change in (
            "update pipeline_run set status = 'running', in_progress = 1, end_time = null where id = :key",
            "update pipeline_snapshot set step_count = step_count + 1 where id = "
            "(select snapshot_id from pipeline_run where id = :key)",
        ):
            assert connection.execute(sqlalchemy.text(change), key).rowcount == 1
    (zenml_directory() / "running" / run.name).mkdir(parents=True)
    assert close_killed_runs() == [run.name]
    assert client.get_pipeline_run(run.id).status == "stopped"
