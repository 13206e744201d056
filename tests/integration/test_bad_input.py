"""What bad input gets: one line with setting, value and remedy, exit code 1, no traceback, no damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PIPELINE = "pipelines.distillation.distillation_pipeline"


def fail(workplace: Any, capfd: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Run `python -m pipelines.distillation` in this process; return its one line of error."""
    from pipelines.command import run_command
    from pipelines.distillation import distillation_pipeline

    capfd.readouterr()
    # An experiment of its own: what fails here is no run of the tests that look at finished ones.
    config = workplace.config("bad.yaml", workplace.settings | {"tracking": {"experiment": "bad"}})
    assert run_command(distillation_pipeline, ["-c", config, *overrides]) == 1
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    errors = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, captured.err
    assert captured.err.rstrip().endswith(errors[0])
    return errors[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batchsize=4", ["training.batchsize", "4", "did you mean batch_size?"]),
        ("training.learning_rate=7", ["training.learning_rate", "7", "less than or equal to 1"]),
        ("corpus.sources=[wikitex]", ["corpus.sources", "wikitex", "documentation"]),
        ("evaluation.stride=64", ["evaluation", "stride", "max_length (64)"]),
        ("evaluation.tasks=[cloze, choise]", ["evaluation.tasks", "choise", "did you mean choice?"]),
        ("evaluation.task_dir=/nowhere/tasks", ["evaluation.task_dir", "/nowhere/tasks", "no such folder"]),
        ("training.batch_size", ["training.batch_size", "NAME=VALUE"]),
        ("seed.x=1", ["seed"]),
        ("alignment.strategy=truncate", ["alignment.strategy", "evaluation.controls"]),
        ("tracking.uri=http://127.0.0.1:9", ["tracking.uri = http://127.0.0.1:9", "start it"]),
        ("tracking.uri=mlruns", ["tracking.uri = mlruns", "sqlite:///FILE"]),
        ("models.teacher.path=/nowhere/teacher", ["models.teacher.path", "/nowhere/teacher"]),
    ],
)
def test_settings_that_cannot_be(
    workplace: Any, capfd: pytest.CaptureFixture[str], override: str, words: list[str]
) -> None:
    line = fail(workplace, capfd, override)
    for word in words:
        assert word in line


def test_a_model_without_a_tokenizer(
    workplace: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bare = shutil.copytree(workplace.settings["models"]["student"]["path"], tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    line = fail(workplace, capfd, f"models.student.path={bare}")
    assert "models.student.path" in line
    assert "tokenizer" in line


def test_weights_that_do_not_fit(workplace: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = shutil.copytree(workplace.settings["models"]["student"]["path"], tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    line = fail(workplace, capfd, f"models.student.path={wrong}")
    assert "models.student.path" in line


def test_a_job_directory_that_cannot_be_written(
    workplace: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "notes.txt"
    blocked.write_text("keep me")
    line = fail(workplace, capfd, f"training.output_dir={blocked}/jobs")
    assert "training.output_dir" in line
    assert blocked.read_text() == "keep me"


def test_a_cache_that_cannot_be_written(
    workplace: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "notes.txt"
    blocked.write_text("keep me")
    line = fail(workplace, capfd, f"cache={{output_dir: {blocked}/cache}}")
    assert f"{blocked}/cache: cannot be written, Not a directory" in line
    assert "(cache.output_dir)" in line


def test_an_experiment_whose_files_cannot_be_written_is_refused_before_any_step(
    workplace: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from zenml.client import Client

    blocked = tmp_path / "notes.txt"
    blocked.write_text("keep me")
    workplace.recorder().client.create_experiment("barred", artifact_location=f"{blocked}/runs")
    num_before = Client().list_pipeline_runs().total
    line = fail(workplace, capfd, "tracking.experiment=barred")
    assert "tracking.experiment = 'barred' takes no file" in line
    assert f"see that {blocked}/runs" in line
    assert Client().list_pipeline_runs().total == num_before


def test_every_source_failing_lists_all_reasons(
    workplace: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("Too short.\n")
    first, second = (f"{{kind: file, path: {tmp_path / name}}}" for name in ("empty.txt", "short.txt"))
    line = fail(workplace, capfd, f"corpus.sources=[{first}, {second}]")
    assert "corpus.sources[0]" in line
    assert "corpus.sources[1]" in line
    assert "empty.txt" in line
    assert "short.txt" in line


def test_a_failing_step_is_one_line_of_the_zenml_command(
    workplace: Any, zenml: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("Too short.\n")
    settings = workplace.settings | {
        "tracking": {"experiment": "bad"},
        "corpus": {"sources": [{"kind": "file", "path": str(tmp_path / "short.txt")}]},
    }
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config("bad.yaml", settings), "-s", "local")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    lines = [line for line in result.output.splitlines() if "short.txt" in line]
    assert len(lines) == 1
    assert lines[0].startswith("Error: corpus.sources[0]")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("parameters: [", "not valid YAML"),
        ("settings: {seed: 1}", "parameters: settings:"),
        ("parameters: {seed: 1}", "parameter seed: unknown"),
        ("parameters: {settings: 3}", "must be a mapping"),
    ],
)
def test_files_that_are_no_pipeline_files(
    workplace: Any, zenml: Callable[..., Any], content: str, words: str
) -> None:
    path = workplace.root / "strange.yaml"
    path.write_text(content)
    result = zenml("pipeline", "run", PIPELINE, "-c", str(path), "-s", "local")
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_promotion_without_runs_is_refused(workplace: Any, zenml: Callable[..., Any]) -> None:
    config = workplace.config("promote_nothing.yaml", {"experiment": "nothing-here"})
    result = zenml("pipeline", "run", "pipelines.promotion.promotion_pipeline", "-c", config, "-s", "local")
    assert result.exit_code == 1
    assert "Error: experiment = nothing-here: no finished run" in result.output


@pytest.fixture
def clean_clone(tmp_path: Path) -> dict[str, Any]:
    """A copy of the sources and a user who has run nothing yet."""
    root = tmp_path / "clone"
    for name in ("distillation", "pipelines", "steps", "tracking", "materializers", "stacks", "configs"):
        shutil.copytree(
            REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
        )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZENML_")}
    environment |= {
        "ZENML_CONFIG_PATH": str(tmp_path / "zenml"),
        "ZENML_ANALYTICS_OPT_IN": "false",
        "PYTHONPATH": str(root),
    }
    return {"cwd": root, "env": environment, "capture_output": True, "text": True, "timeout": 300}


@pytest.mark.slow
def test_both_commands_in_processes_of_their_own(clean_clone: dict[str, Any]) -> None:
    python, clone = sys.executable, clean_clone["cwd"]
    # Two first starts at once, on a store that does not exist yet.
    options = {name: clean_clone[name] for name in ("cwd", "env", "text")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    starts = [subprocess.Popen([python, "-m", "stacks.local"], **options, **pipes) for _ in range(2)]
    outputs = [start.communicate(timeout=120) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], outputs
    assert sorted(out.splitlines()[-1] for out, _ in outputs) == [
        "stack local is there",
        "stack local registered",
    ]

    (clone / "configs" / "typo.yaml").write_text("parameters: {settings: {trainin: {batch_size: 4}}}\n")
    zenml = Path(python).with_name("zenml")
    run = [zenml, "pipeline", "run", PIPELINE, "-c", "configs/typo.yaml", "-s", "local"]
    for command in (run, [python, "-m", "pipelines.distillation", "-c", "configs/typo.yaml"]):
        failed = subprocess.run([str(part) for part in command], **clean_clone)
        assert failed.returncode == 1
        assert failed.stderr.strip().splitlines()[-1] == (
            "Error: unknown setting trainin = {'batch_size': 4}: did you mean training?"
        )
        assert "Traceback" not in failed.stdout + failed.stderr
        assert "zenml init" not in failed.stdout + failed.stderr
