"""Real pipelines in an isolated ZenML and MLflow state, in this process: one start-up for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Workplace:
    """A folder to run in, with its own ZenML configuration, artifact store and MLflow database."""

    root: Path
    settings: dict[str, Any]
    """Settings of a pipeline that distils the tiny pair in a few steps."""
    secrets: dict[str, str]
    """Variables of the environment whose values must stand nowhere."""

    def config(self, name: str = "tiny.yaml", settings: dict[str, Any] | None = None) -> str:
        """Write a pipeline file and return its path."""
        path = self.root / name
        chosen = self.settings if settings is None else settings
        path.write_text(yaml.safe_dump({"parameters": {"settings": chosen}}))
        return str(path)

    def recorder(self) -> Any:
        """Return a recorder on the stack's MLflow store."""
        from stacks.local import local_tracking_uri
        from tracking.runs import Recorder

        return Recorder(local_tracking_uri(), "tiny")


@pytest.fixture(scope="session")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, tiny_teacher_dir: Path, tiny_student_dir: Path
) -> Iterator[Workplace]:
    from zenml.client import Client
    from zenml.config.global_config import GlobalConfiguration
    from zenml.utils import source_utils

    root = tmp_path_factory.mktemp("workplace")
    before, directory = dict(os.environ), Path.cwd()
    os.environ["ZENML_CONFIG_PATH"] = str(root / "zenml")
    os.environ.pop("ZENML_LOCAL_STORES_PATH", None)
    os.environ["ZENML_LOGGING_COLORS_DISABLED"] = "true"
    os.environ["COLUMNS"] = "120"
    secrets = {
        "HF_TOKEN": "hf_planted0123456789",
        "KAGGLE_KEY": "planted0123456789abcdef",
        "MLFLOW_TRACKING_PASSWORD": "planted-password",
    }
    os.environ.update(secrets)
    os.chdir(root)
    GlobalConfiguration._reset_instance()
    Client._reset_instance()
    source_utils.set_custom_source_root(str(REPOSITORY))
    from stacks.local import register_local_stack

    assert register_local_stack(root)
    assert not register_local_stack(root)
    yield Workplace(
        root,
        {
            "corpus": {
                "sources": ["documentation"],
                "max_train_bytes": 150_000,
                "max_held_out_bytes": 8_000,
            },
            "models": {
                "teacher": {"path": str(tiny_teacher_dir)},
                "student": {"path": str(tiny_student_dir)},
                "device": "cpu",
            },
            "training": {
                "max_steps": 4,
                "batch_size": 4,
                "max_length": 64,
                "evaluations": 1,
                "output_dir": str(root / "outputs" / "jobs"),
            },
            "evaluation": {"max_length": 64, "stride": 48, "num_new_tokens": 3, "prompts": ["The"]},
            "tracking": {"experiment": "tiny"},
        },
        secrets,
    )
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(before)
    source_utils.set_custom_source_root(None)
    GlobalConfiguration._reset_instance()
    Client._reset_instance()


@pytest.fixture(scope="session")
def zenml(workplace: Workplace) -> Callable[..., Any]:
    """The command `zenml`, in this process; returns click's result."""
    from click.testing import CliRunner
    from zenml.cli.cli import cli

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(cli, list(arguments))

    return invoke


@pytest.fixture(scope="session")
def statuses(workplace: Workplace) -> Callable[[], dict[str, str]]:
    """How each step of the newest distillation ended: completed, cached, failed."""
    from zenml.client import Client

    def read() -> dict[str, str]:
        runs = Client().list_pipeline_runs(
            pipeline="distillation_pipeline", sort_by="desc:created", size=1, hydrate=True
        )
        return {name: step.status.value for name, step in runs.items[0].steps.items()}

    return read
