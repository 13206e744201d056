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


ROOMS = (
    ("distillation",),  # the ground floor: files that stand in no room
    ("distillation.config",),
    ("distillation.tokenizers",),
    ("distillation.kernels",),
    ("distillation.models",),
    ("distillation.aligners",),
    ("distillation.corpus",),
    ("distillation.teachers",),
    ("distillation.losses",),
    ("distillation.evaluation",),
    ("distillation.training",),
    ("distillation.experiment",),
    ("distillation.report",),
    ("distillation.audit",),
    ("tracking", "materializers"),
    ("steps",),
    ("stacks",),
    ("pipelines",),
    ("distillation.command_line",),  # the one way in, which leads to every room
)
"""From the ground up: a room imports from itself and from those above it in this list, types included."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in OURS
    if "benchmarks" not in path.parts and "sample" not in path.parts
}


def modules_imported(path: Path) -> set[str]:
    """Return the modules of the project that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & MODULES.keys()


def room_of(module: str) -> str:
    room = ".".join(module.split(".")[: 2 if module.startswith("distillation.") else 1])
    return room if room in FLOOR else "distillation"


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module: str) -> None:
    if module == "distillation":  # the front door: what it hands on is loaded when somebody asks for it
        return
    floor = FLOOR[room_of(module)]
    above = {name for name in modules_imported(MODULES[module]) if FLOOR[room_of(name)] > floor}
    beside = {name for name in modules_imported(MODULES[module]) if FLOOR[room_of(name)] == floor}
    assert not above
    assert {room_of(name) for name in beside} <= {room_of(module)}


def test_no_module_imports_itself_through_others() -> None:
    import networkx

    graph = networkx.DiGraph()
    graph.add_edges_from(
        (module, name)
        for module, path in MODULES.items()
        for name in modules_imported(path)
        if name != module and not module.startswith(f"{name}.")
    )
    assert not [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_knows_no_orchestrator(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"zenml", "mlflow", "kaggle"}


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
        "import sys, distillation, distillation.config, distillation.errors, distillation.fingerprint;"
        "import distillation.models.load;"
        "heavy = {'torch', 'transformers', 'datasets', 'great_expectations', 'mlflow', 'zenml'};"
        "heavy &= set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest cannot import two of one name"
