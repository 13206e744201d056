"""The command `distil`: what it names, how fast it starts, what it says and returns if something is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from distillation import command_line
from distillation.command_line import ENTRIES, distil
from distillation.errors import InputError
from pipelines.command import merge_overrides
from pipelines.parameters import read_parameters

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {"run": "quickstart.yaml", "compare": "compare_objectives.yaml", "promote": "promote.yaml"}
MODULES = {
    "audit": "distillation.audit",
    "train": "distillation.training",
    "stack": "stacks.local",
    "run": "pipelines.distillation",
    "promote": "pipelines.promotion",
}
"""Commands that can be started by the name of a module too."""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of Python in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | variables
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_the_commands() -> None:
    done = CliRunner().invoke(distil, ["--help"], prog_name="distil")
    assert done.exit_code == 0
    found = re.findall(r"^  (\w+)  +[A-Z]", done.output, re.MULTILINE)
    assert (
        found == ["audit", "run", "compare", "promote", "rollback", "train", "ui", "stack"] == list(ENTRIES)
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_each_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(distil, [name, "--help"], prog_name="distil")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"Usage: distil {name} ")
    about, _, rest = done.output.partition("Options:")
    assert len(about.splitlines()) > 3
    assert "--help" in rest


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from distillation.command_line import main; main(['--help']);"
        "heavy = {'zenml', 'torch', 'mlflow', 'pydantic', 'numpy', 'pipelines'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr


def test_help_is_fast() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        assert run("run.py", "--help").returncode == 0
        after = os.times()  # of the processor: what else this machine does counts for nothing
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(seconds) < 0.5


@pytest.mark.parametrize("name", ["run", "compare", "promote", "rollback"])
def test_the_help_of_a_pipeline_imports_no_zenml(name: str) -> None:
    program = (
        f"import sys; from distillation.command_line import main; code = main(['{name}', '--help']);"
        "sys.exit('zenml is imported' if 'zenml' in sys.modules else code)"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.endswith(errors[0] + "\n")
    assert not re.search(r"(?m)^(?:error|.+: error):", done.stderr)
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["audit", "sample"], "Missing argument 'STUDENT'"),
        (["audit", "sample", "sample", "--window-length", "1"], "--window-length"),
        (["train"], "Missing argument 'JOB_DIR'"),
        (["run", "--rollback"], "No such option"),
        (["promote", "--rollback", "--publish"], "give one of --rollback and --publish"),
        (["ui", "--port", "x"], "not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_two(arguments: list[str], words: str) -> None:
    done = run("run.py", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Usage: distil")
    assert words in error_of(done)
    if len(arguments) > 1 and (module := MODULES.get(arguments[0])):  # the same by the module's name
        other = run("-m", module, *(["-c", "x.yaml"] if "pipelines" in module else []), *arguments[1:])
        assert other.returncode == 2
        assert other.stderr.startswith(f"Usage: python -m {module}")
        assert error_of(other) == error_of(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit", "/nowhere/teacher", "sample"], "models.teacher.path = /nowhere/teacher"),
        (["train", "/nowhere/job"], "/nowhere/job"),
        (["run", "-c", "/nowhere/file.yaml"], "give a YAML file with -c"),
        (["compare", "training.batch_size"], "must be NAME=VALUE"),
        (["promote", "-c", "/nowhere/file.yaml"], "give a YAML file with -c"),
        (["rollback", "-c", "/nowhere/file.yaml"], "give a YAML file with -c"),
    ],
)
def test_what_a_user_can_mend_is_one(arguments: list[str], words: str) -> None:
    done = run("run.py", *arguments)
    assert done.returncode == 1, done.stderr
    assert words in error_of(done)
    if module := MODULES.get(arguments[0]):
        other = run("-m", module, *arguments[1:])
        assert other.returncode == 1
        assert error_of(other) == error_of(done)


def test_a_missing_file_is_replaced_and_told(tmp_path: Path) -> None:
    done = run("run.py", "run", "training.batchsize=4", ZENML_CONFIG_PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "no file named with -c: taking configs/quickstart.yaml"
    assert "did you mean batch_size?" in error_of(done)


def test_an_error_is_told_in_any_encoding(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "run.py", "train", str(tmp_path / "größe→")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.isascii()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_one_line(number: signal.Signals, code: int) -> None:
    program = (
        "import sys, time; import distillation.audit.__main__ as audit;"
        "audit.load_for_audit = lambda path, role: (print('here', flush=True), time.sleep(60));"
        "from distillation.command_line import main; sys.exit(main(['audit', 'a', 'b']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    began = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert process.returncode == code
    assert time.monotonic() - began < 5
    assert told.startswith("stopped; the same command starts again: ")
    assert told.count("\n") == 1


class Watched:
    """A pipeline that keeps the content of the file it was given, and runs nothing."""

    name = "distillation_pipeline"

    def __init__(self) -> None:
        self.contents: list[dict[str, Any]] = []

    def with_options(self, config_path: str) -> Any:
        self.contents.append(read_parameters(config_path))
        return lambda: None


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("overrides", [[], ["training.max_steps=6", "corpus.sources=[wikitext]", "a.b=null"]])
def test_the_same_parameters_by_every_name(
    name: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    from pipelines import command

    monkeypatch.setattr(command, "_active_stack", lambda stack: contextlib.nullcontext())
    watched: Any = Watched()
    file = str(ROOT / "configs" / CONFIGS[name])
    assert command.run_command(watched, ["-c", file, *overrides]) == 0
    real = command.pipeline_command
    monkeypatch.setattr(command, "pipeline_command", lambda load, *a, **b: real(lambda: watched, *a, **b))
    for arguments in (
        [name, "-c", file, *overrides],
        [name, *overrides, "--config", file],
        [name, *overrides],
    ):
        done = CliRunner().invoke(distil, arguments)
        assert done.exit_code == 0, done.output
    expected = read_parameters(file)
    expected["parameters"]["settings"] = merge_overrides(expected["parameters"]["settings"], overrides)
    assert watched.contents == [expected] * 4


def test_a_wheel_says_that_a_checkout_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command_line, "CONFIGS", tmp_path / "configs")
    for name in ENTRIES:
        done = CliRunner().invoke(distil, [name, "--help"])
        if name in ("audit", "train"):
            assert done.exit_code == 0
        else:
            assert done.exit_code == 1
            assert done.output.startswith(f"Error: distil {name}: needs a checkout")
            assert done.output.count("\n") == 1


def test_a_fault_of_this_software_keeps_its_traceback() -> None:
    from distillation.commands import Command

    def fail(error: Exception) -> Any:
        def callback() -> None:
            raise error

        return CliRunner().invoke(Command("fail", callback=callback))

    assert isinstance(fail(KeyError("fault")).exception, KeyError)
    mended = fail(InputError("line one\nline two"))
    assert (mended.exit_code, mended.output) == (1, "Error: line one line two\n")


def test_the_console_script_is_the_group() -> None:
    assert isinstance(distil, click.Group)
    assert 'distil = "distillation.command_line:main"' in (ROOT / "pyproject.toml").read_text()


def test_make_lists_its_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    for arguments in ([], ["help"]):
        done = subprocess.run(
            ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert [line.split()[0] for line in done.stdout.splitlines()] == targets
        assert all(len(line.split()) > 3 for line in done.stdout.splitlines())
