"""ZenML stores failures and logs of steps without secrets, also those of libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PASSWORD, TOKEN = "hunter2hunter2", "a1b2c3d4e5f6a7b8"


def test_a_secret_in_an_error_of_a_library_stands_in_no_file_of_zenml(workplace: Any, tmp_path: Path) -> None:
    from failing_pipeline import failing_pipeline
    from zenml.client import Client

    address = f"https://anna:{PASSWORD}@host/x?token={TOKEN} as {workplace.secrets['HF_TOKEN']}"
    (tmp_path / "address.txt").write_text(address)
    settings = workplace.settings | {"evaluation": {"prompts": [str(tmp_path / "address.txt")]}}
    with pytest.raises(RuntimeError, match="cannot ask"):
        failing_pipeline.with_options(config_path=workplace.config("failing.yaml", settings))()

    run = Client().list_pipeline_runs(pipeline="failing_pipeline", size=1, hydrate=True).items[0]
    stored = run.steps["ask_a_library"].exception_info
    assert stored is not None
    assert stored.message == "cannot ask https://***@host/x?token=*** as ***"
    assert "no route to https://***@host/x?token=*** as ***" in stored.traceback
    files = [path for path in (workplace.root / "zenml").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    logged = [path for path in files if b"asking https://***@host" in path.read_bytes()]
    assert logged
    for secret in (PASSWORD, TOKEN, workplace.secrets["HF_TOKEN"]):
        assert not [path for path in files if secret.encode() in path.read_bytes()]
