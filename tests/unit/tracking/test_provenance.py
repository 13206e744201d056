"""A run names the commit of the code that made it, and only if that is the code's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tracking.provenance import code_tags, git_tags


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that tracks one package and ignores an installation."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.org")
    for folder in ("package", "venv/package"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / ".gitignore").write_text("venv\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_commit_and_changes_of_a_checkout(checkout: Path) -> None:
    clean = git_tags(checkout / "package")
    assert len(clean["mlflow.source.git.commit"]) == 40
    assert clean["mlflow.source.git.dirty"] == "false"
    (checkout / "package" / "__init__.py").write_text("changed = True\n")
    changed = git_tags(checkout / "package")
    assert changed == clean | {"mlflow.source.git.dirty": "true"}


def test_an_installation_inside_another_project_does_not_take_its_commit(checkout: Path) -> None:
    assert git_tags(checkout / "venv" / "package") == {}


def test_without_git_or_checkout_there_is_no_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    assert git_tags(tmp_path_factory.mktemp("no-checkout")) == {}
    monkeypatch.setenv("PATH", "/nonexistent")
    assert git_tags(checkout / "package") == {}


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert code_tags()["package_version"] == version("student-aware-distillation")
