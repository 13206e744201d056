"""The digest of code follows what runs, and nothing else."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import distillation
from distillation.sources import PROJECT, ROOT, Sources, digest_of_sources

TRAINING = "distillation.training.run"
CACHE = "distillation.teachers.cache.fill"
EVALUATION = "distillation.evaluation.evaluate"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's packages in another folder, which may be edited."""
    for package in PROJECT:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    return tmp_path


def edit(root: Path, path: str) -> None:
    with (root / path).open("a", encoding="utf-8") as file:
        file.write("\n# edited\n")


def write(root: Path, **files: str) -> Sources:
    """Return the sources of a made-up package: `a__b="..."` is `distillation/a/b.py`."""
    for name, text in files.items():
        path = root / "distillation" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in {path.parent for path in root.rglob("*.py")}:
        (folder / "__init__.py").touch()
    return Sources(root)


def closure(sources: Sources, entry: str) -> set[str]:
    return {one.removeprefix("distillation.") for one in sources.closure(f"distillation.{entry}")} - {
        "distillation"
    }


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        # Which held-out documents choose the checkpoint; how many positions a chunk has; what settings mean.
        (TRAINING, "distillation/corpus/documents.py"),
        (TRAINING, "distillation/models/memory_estimate.py"),
        (TRAINING, "distillation/config/objective.py"),
        (TRAINING, "distillation/evaluation/reliability.py"),
        (TRAINING, "distillation/aligners/projection.py"),
        (TRAINING, "distillation/losses/uld.py"),
        (CACHE, "distillation/models/device.py"),
        (CACHE, "distillation/kernels/chunked.py"),
        (CACHE, "distillation/config/cache.py"),
        (EVALUATION, "distillation/evaluation/embedded_tasks.py"),
        ("steps.evaluate_student", "distillation/corpus/sources/labels.py"),
        ("steps.evaluate_student", "distillation/models/inspect/probe.py"),
        ("steps.evaluate_student", "tracking/records/final_record.py"),
        ("steps.evaluate_student", "distillation/report/templates/report.html"),
    ],
)
def test_an_edit_far_below_is_noticed(copy: Path, entry: str, path: str) -> None:
    before = Sources(copy).digest(entry)
    edit(copy, path)
    assert Sources(copy).digest(entry) != before


def test_an_edit_of_what_does_not_run_is_not(copy: Path) -> None:
    steps = ("steps.load_corpus", "steps.probe_models", "steps.distill_student")
    before = {entry: Sources(copy).digest(entry) for entry in (TRAINING, CACHE, EVALUATION, *steps)}
    for path in ("page.py", "figures.py", "card.py", "templates/report.html", "templates/base.html"):
        edit(copy, f"distillation/report/{path}")
    assert {entry: Sources(copy).digest(entry) for entry in before} == before
    edit(copy, "tracking/runs.py")
    edit(copy, "distillation/evaluation/speed.py")
    edit(copy, "distillation/corpus/contract_page.py")
    edit(copy, "distillation/experiment/summarise.py")
    for entry in (TRAINING, CACHE):
        assert Sources(copy).digest(entry) == before[entry]
    edit(copy, "distillation/losses/gold.py")
    assert Sources(copy).digest(CACHE) == before[CACHE]
    assert Sources(copy).digest(TRAINING) != before[TRAINING]


def test_neither_the_folder_nor_the_system_counts(copy: Path) -> None:
    here = Sources(ROOT).digest(TRAINING, "steps.evaluate_student")
    assert Sources(copy).digest(TRAINING, "steps.evaluate_student") == here
    for path in copy.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (copy / "distillation" / "report" / ".DS_Store").write_bytes(b"0")
    (copy / "distillation" / "training" / "__pycache__").mkdir()
    (copy / "distillation" / "training" / "__pycache__" / "run.cpython-311.pyc").write_bytes(b"0")
    assert Sources(copy).digest(TRAINING, "steps.evaluate_student") == here


def test_imports_of_all_kinds_are_followed(tmp_path: Path) -> None:
    entry = """
import torch, distillation.plain
from . import beside
from ..a import above
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from distillation import typed
else:
    from distillation import otherwise
try:
    from distillation.tried import name
except ImportError:
    from distillation import caught
def run():
    if run:
        match run:
            case 1:
                import distillation.late as late
class Some:
    def method(self):
        from importlib import import_module
        import_module("distillation.named")
        import_module(".relative", __package__)
        import_module(f"distillation.kinds.{run}")
"""
    names = ("plain", "a__beside", "a__above", "typed", "otherwise", "tried", "caught", "late", "named")
    sources = write(
        tmp_path,
        a__entry=entry,
        **dict.fromkeys([*names, "a__relative", "kinds__one", "kinds__sub__two", "kindsnot"], ""),
    )
    followed = {name.replace("__", ".") for name in (*names, "a__relative", "kinds__one", "kinds__sub__two")}
    expected = (followed - {"typed"}) | {"a", "a.entry", "kinds.sub"}
    assert closure(sources, "a.entry") - {"kinds"} == expected


def test_a_package_hands_on_what_is_asked_for(tmp_path: Path) -> None:
    eager = """
from distillation.p.one import One
from distillation.p.two import Two
from distillation.p.used import helper
from distillation.p import registers
__all__ = ["One", "Two", "helper"]
helper()
"""
    lazy = """
from importlib import import_module
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from distillation.q.one import One
    from distillation.q.two import Two
__all__ = ["One", "Two"]
def __getattr__(name):
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)
"""
    sources = write(
        tmp_path,
        **{"p____init__": "", "q____init__": ""},
        **dict.fromkeys(["p__one", "p__two", "p__used", "p__registers", "q__one", "q__two"], ""),
        eager="from distillation.p import One",
        lazy="from distillation.q import Two",
        module="from distillation.p.two import Two",
        whole="import distillation.q",
    )
    (tmp_path / "distillation/p/__init__.py").write_text(eager)
    (tmp_path / "distillation/q/__init__.py").write_text(lazy)
    always = {"p", "p.used", "p.registers"}
    assert closure(sources, "eager") == {"eager", "p.one", *always}
    assert closure(sources, "module") == {"module", "p.two", *always}
    assert closure(sources, "lazy") == {"lazy", "q", "q.two"}
    assert closure(sources, "whole") == {"whole", "q", "q.one", "q.two"}
    assert closure(sources, "q") == {"q", "q.one", "q.two"}


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    sources = write(tmp_path, computed="import importlib\nimportlib.import_module(input())\n")
    with pytest.raises(
        ValueError, match=r"distillation\.computed, line 2: loads a module by a computed name"
    ):
        sources.closure("distillation.computed")
    with pytest.raises(ModuleNotFoundError):
        digest_of_sources("distillation.nowhere")
    with pytest.raises(ModuleNotFoundError):
        digest_of_sources("torch")


def test_every_module_of_the_project_can_be_followed() -> None:
    sources = Sources(ROOT)
    for package in PROJECT:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            sources.closure(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def test_the_packages_are_those_that_are_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sorted(name for name in settings["tool"]["mypy"]["files"] if (ROOT / name).is_dir()) == list(
        PROJECT
    )


def test_a_wheel_brings_one_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["packages"]["find"]["include"] == ["distillation*"]


def test_names_loaded_on_first_use_come_from_where_the_digest_looks(tmp_path: Path) -> None:
    handed_on = Sources(ROOT).imports("distillation").handed_on
    assert sorted(handed_on) == sorted(distillation.__all__)
    for name, origin in handed_on.items():
        assert callable(getattr(distillation, name))
        assert getattr(importlib.import_module(origin.module), name).__module__ == origin.module
    write(tmp_path, caller="from distillation import distil")
    for package in PROJECT:
        shutil.copytree(ROOT / package, tmp_path / package, dirs_exist_ok=True)
    found = Sources(tmp_path).closure("distillation.caller")
    assert {"distillation.experiment.distil", "distillation.training.run"} <= found
    assert "distillation.audit.pair" not in found


@pytest.mark.slow
def test_what_training_takes_in_is_really_loaded(tmp_path: Path) -> None:
    # A second opinion on the closure: Python's own. What a module loads as it starts is in it.
    code = (
        "import sys, distillation.training.trainer, distillation.corpus.windows\n"
        "print(*(name for name in sys.modules if name.startswith('distillation.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = Sources(ROOT).closure("distillation.training.trainer", "distillation.corpus.windows")
    handed_on = {
        one.module for name in found for one in Sources(ROOT).imports(name).handed_on.values()
    }  # loaded, as the packages are, and not asked for
    beyond = Sources(ROOT).closure(*(one for one in handed_on if one.startswith("distillation.")))
    assert set(done.stdout.split()) <= found | beyond


def test_each_module_is_parsed_once_and_a_digest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # What it costs: a fifth of a second on an idle machine, nearly all of it in parsing.
    parsed: list[str] = []
    parse = ast.parse
    monkeypatch.setattr("distillation.sources.ast.parse", lambda text: parsed.append(text) or parse(text))
    sources = Sources(ROOT)
    digest = sources.digest("steps.evaluate_student")
    assert len(parsed) == len(set(parsed)) == len(sources.closure("steps.evaluate_student"))
    assert sources.digest("steps.evaluate_student") == digest
    sources.digest("distillation.training.run")  # all of it was read for the step
    assert len(parsed) == len(set(parsed))


STEPS = """
import sys
from pathlib import Path
from zenml.utils import source_utils
import distillation.sources
from steps.distill_student import distill_student
from steps.evaluate_student import evaluate_student

def keys():
    distillation.sources._sources.cache_clear()  # as another process would find it
    policies = [step.configuration.cache_policy for step in (distill_student, evaluate_student)]
    return [source_utils.load(policy.cache_func)() for policy in policies]

def change(path):
    file = Path(path)
    file.write_text(file.read_text() + "\\n# edited\\n")
    return keys()

first = keys()
page = change("distillation/report/templates/report.html")
split = change("distillation/corpus/documents.py")
print(page[0] == first[0], page[1] == first[1], split[0] == page[0], split[1] == page[1])
"""


def test_the_steps_ask_zenml_for_another_key(copy: Path) -> None:
    (copy / "ask.py").write_text(STEPS)
    environment = {"ZENML_CONFIG_PATH": str(copy / "zenml"), "PYTHONPATH": str(copy), "HOME": str(copy)}
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split()[-4:] == ["True", "False", "False", "False"], done.stderr[-2000:]
