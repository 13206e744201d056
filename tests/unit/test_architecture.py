"""The rules of the house that a machine can hold: which way arrows point, what start-up may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "distillation").rglob("*.py"))
OURS = [
    path
    for package in ("distillation", "pipelines", "steps", "materializers", "stacks", "tracking", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
]


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_knows_no_orchestrator(path: Path) -> None:
    above = {"zenml", "mlflow", "kaggle", "pipelines", "steps", "materializers", "stacks", "tracking"}
    assert not {name.split(".")[0] for name in imported(path)} & above


@pytest.mark.parametrize(
    "path", sorted((ROOT / "distillation" / "alignment").rglob("*.py")), ids=lambda p: p.name
)
def test_alignment_stands_alone(path: Path) -> None:
    above = ("objectives", "teacher", "training", "evaluation", "report", "corpus", "probing")
    assert not [
        name for name in imported(path) if name.startswith(tuple(f"distillation.{part}" for part in above))
    ]


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_or_evaluated(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {
        "pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "marshal",
    }
    calls = [node.func.id for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
    assert not {"eval", "exec"} & set(calls)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_stay_readable(path: Path) -> None:
    # A file holds one thought, however long; a function is read from top to bottom.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 75, f"{node.name} is too long"


def test_settings_start_without_heavy_imports() -> None:
    program = (
        "import sys, distillation.config, distillation.errors, distillation.fingerprint;"
        "import distillation.models.load;"
        "heavy = {'torch', 'transformers', 'datasets', 'great_expectations', 'mlflow', 'zenml'};"
        "heavy &= set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
