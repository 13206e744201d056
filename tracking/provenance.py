"""Which code made a run: the version of this package and, in a checkout, its commit."""

from __future__ import annotations

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distillation.sources import ROOT

_PACKAGE = "student-aware-distillation"
_SECONDS = 10.0


@functools.lru_cache(maxsize=1)
def code_tags() -> dict[str, str]:
    """Return tags under MLflow's own names where it has some; without git or a checkout, the version alone.

    A checkout with uncommitted changes is marked: its commit does not say what ran.
    """
    return _version_tag() | git_tags(ROOT / "distillation")


def git_tags(package: Path) -> dict[str, str]:
    """Return commit and state of the checkout that tracks the folder `package`; empty if none does."""
    # An installation inside somebody's project lies in that project's checkout, but is not tracked by it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return {}
    return {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": "true" if changes else "false"}


def _version_tag() -> dict[str, str]:
    try:
        return {"package_version": version(_PACKAGE)}
    except PackageNotFoundError:
        return {}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, or None where it is missing or refuses."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
