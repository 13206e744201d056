"""A real MLflow store in a database file, migrated once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tracking.runs import Recorder


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


@pytest.fixture(scope="session")
def promotion_store(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory, tiny_student_dir: Path
) -> Recorder:
    """A store with finished runs and two real students: tests differ in the name of the registered model."""
    from promotion_runs import candidates, finished_run
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tracking.runs import Recorder

    folder = tmp_path_factory.mktemp("promotion")
    shutil.copy(migrated_database, folder / "mlflow.db")
    recorder = Recorder(f"sqlite:///{folder}/mlflow.db", "runs")
    finished_run(recorder, "worse", 1.9, student=tiny_student_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_student_dir)
    model.model.norm.weight.data *= -1.0
    model.save_pretrained(folder / "other")
    AutoTokenizer.from_pretrained(tiny_student_dir).save_pretrained(folder / "other")
    finished_run(recorder, "better", 1.8, student=folder / "other")
    uri = {name: run.model_uri for name, run in candidates(recorder).items()}
    finished_run(recorder, "middle", 1.85, model_uri=uri["worse"])
    finished_run(recorder, "best", 1.7, model_uri=uri["better"])
    finished_run(recorder, "other-set", 0.9, model_uri=uri["better"], held_out="set-b")
    return recorder
