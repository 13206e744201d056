"""A real MLflow store in a database file, migrated once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tracking.runs import Recorder

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Recorder(f"sqlite:///{path}", "first").experiment_id()
    return path


@pytest.fixture
def tracking_uri(migrated_database: Path, tmp_path: Path) -> str:
    """The address of an empty store of this test alone."""
    path = tmp_path / "store" / "mlflow.db"
    path.parent.mkdir()
    shutil.copy(migrated_database, path)
    return f"sqlite:///{path}"
