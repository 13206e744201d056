"""The stack `local`: registered once, found again, and its MLflow store has one address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distillation.errors import TrackingError


@pytest.fixture
def fresh_zenml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from zenml.client import Client
    from zenml.config.global_config import GlobalConfiguration

    config, client = GlobalConfiguration.get_instance(), Client.get_instance()
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "zenml"))
    monkeypatch.delenv("ZENML_LOCAL_STORES_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    GlobalConfiguration._reset_instance()
    Client._reset_instance()
    yield tmp_path
    GlobalConfiguration._reset_instance(config)
    Client._reset_instance(client)


def test_registering_twice_changes_nothing(fresh_zenml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zenml.client import Client

    from stacks.local import local_tracking_uri, main, register_local_stack

    assert main([]) == 0
    assert "stack local registered" in capsys.readouterr().out
    first = Client().get_stack("local")
    assert main([]) == 0
    assert "stack local is there" in capsys.readouterr().out
    assert not register_local_stack(fresh_zenml)
    assert Client().get_stack("local").id == first.id
    flavors = {kind.value: parts[0].flavor_name for kind, parts in first.components.items()}
    assert flavors == {"orchestrator": "local", "artifact_store": "local", "experiment_tracker": "mlflow"}
    assert (fresh_zenml / ".zen").is_dir()

    uri = local_tracking_uri()
    Client().activate_stack("local")
    assert Client().active_stack.experiment_tracker.get_tracking_uri() == uri
    assert uri.startswith(f"sqlite:///{fresh_zenml}/zenml/")


def test_another_stack_of_this_name_is_left_alone(
    fresh_zenml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from zenml.client import Client
    from zenml.enums import StackComponentType

    from stacks.local import main
    from tracking.server import resolve_tracking_uri

    Client().create_stack(
        "local",
        {StackComponentType.ORCHESTRATOR: "default", StackComponentType.ARTIFACT_STORE: "default"},
    )
    before = Client().get_stack("local").updated
    assert main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: stack local exists with experiment_tracker none; rename it")
    assert Client().get_stack("local").updated == before
    Client().activate_stack("local")
    with pytest.raises(TrackingError, match="stack local has no MLflow experiment tracker"):
        resolve_tracking_uri(None)
    assert resolve_tracking_uri("http://h:1") == "http://h:1"
