"""Pushing the champion with the real hub client to a server on loopback; the token comes from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_hub_server import TOKEN, ModelHub, serving
from promotion_runs import candidates, promote_one

from distillation.config import PromotionSettings
from distillation.errors import SettingsError
from tracking.hub import check_hub
from tracking.registry import current_champion
from tracking.runs import Recorder

REPOSITORY = Path(__file__).resolve().parents[3]
# A process of its own: the client reads its endpoint and whether it is offline once, when it is imported.
PROGRAM = """
import json, sys
from distillation.config import PromotionSettings
from distillation.errors import DistillationError
from tracking.hub import check_hub
from tracking.publishing import publish
from tracking.runs import Recorder

settings = PromotionSettings.model_validate_json(sys.argv[1])
try:
    check_hub(settings)
    found = publish(Recorder(settings.uri, settings.experiment), settings)
    print("ANSWER " + found.model_dump_json())
except DistillationError as error:
    print("ANSWER " + json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with serving() as server:
        yield server


def publish(settings: PromotionSettings, endpoint: str, tmp_path: Path, token: str | None) -> dict[str, Any]:
    """Publish in a process of its own and return what it says; whatever it prints holds no token."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(REPOSITORY)}
    if token is not None:
        environment["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, settings.model_dump_json()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert token is None or token not in done.stdout + done.stderr
    [answer] = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    return json.loads(answer.removeprefix("ANSWER "))


def test_the_champion_is_pushed_and_its_successor_takes_its_place(
    promotion_store: Recorder, hub: ModelHub, tmp_path: Path
) -> None:
    runs = candidates(promotion_store)
    settings = PromotionSettings(
        experiment="runs",
        uri=promotion_store.uri,
        model_name="pushed",
        export_dir=str(tmp_path / "champion"),
        hub_repository="team/student",
    )
    promote_one(promotion_store, runs["worse"], "pushed")
    answer = publish(settings, hub.endpoint, tmp_path, TOKEN)
    assert "error" not in answer, (answer, hub.requests)
    assert answer["hub_url"] == f"{hub.endpoint}/team/student"
    assert hub.visibility == {"team/student": "private"}
    local = {path.name: path.read_bytes() for path in (tmp_path / "champion").iterdir()}
    assert hub.repositories["team/student"] == local
    assert local["README.md"] == b"# Card of worse\n"
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(local)
    assert hub.summaries == ["pushed version 1: worse"]

    # Weights under another layout would be loaded in place of the new ones; other people's files stay.
    hub.repositories["team/student"] |= {
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        ".gitattributes": b"text",
        "LICENSE": b"mine",
    }
    promote_one(promotion_store, runs["better"], "pushed")
    publish(settings, hub.endpoint, tmp_path, TOKEN)
    local = {path.name: path.read_bytes() for path in (tmp_path / "champion").iterdir()}
    assert local["README.md"] == b"# Card of better\n"
    assert hub.repositories["team/student"] == local | {".gitattributes": b"text", "LICENSE": b"mine"}
    assert hub.summaries[-1] == "pushed version 2: better"


def test_a_hub_that_refuses_is_one_line_and_the_champion_stays(
    promotion_store: Recorder, hub: ModelHub, tmp_path: Path
) -> None:
    settings = PromotionSettings(
        experiment="runs",
        uri=promotion_store.uri,
        model_name="refused",
        export_dir=str(tmp_path / "champion"),
        hub_repository="team/student",
    )
    promote_one(promotion_store, candidates(promotion_store)["worse"], "refused")
    error = publish(settings, hub.endpoint, tmp_path, "hf_wrong")["error"]
    assert error.startswith("PublishError: hub_repository = team/student: not pushed (")
    assert "401" in error
    assert "version 1 is the champion all the same, push it again with --publish" in error
    assert "\n" not in error
    assert hub.repositories == {}
    champion = current_champion(promotion_store, "refused")
    assert champion is not None
    assert (tmp_path / "champion" / "model.safetensors").exists()

    error = publish(settings, hub.endpoint, tmp_path, None)["error"]
    assert error.startswith("SettingsError: hub_repository = team/student: there is no token")
    assert "HF_TOKEN" in error


def test_a_client_that_is_told_to_stay_offline_is_named_before_any_work() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE  # as tests/conftest.py sets it
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE forbids it"):
        check_hub(PromotionSettings(hub_repository="team/student"))
    check_hub(PromotionSettings())
