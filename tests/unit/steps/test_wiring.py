"""What each step depends on, how fast the pipelines import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillation.config import (
    TEXT_ALONE,
    ObjectiveSettings,
    Settings,
    parse_settings,
)
from distillation.errors import SettingsError

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_text_only_control_depends_on_no_objective() -> None:
    from pipelines.distillation import settings_for

    first: Settings = parse_settings(
        {"objective": {"terms": {"reverse_kl": 0.9}}, "alignment": {"strategy": "shared"}}
    )
    second: Settings = parse_settings({"objective": {"temperature": 2.0}, "evaluation": {"prompts": ["x"]}})
    assert settings_for("text_only", first) == settings_for("text_only", second)
    assert settings_for("text_only", first).objective == ObjectiveSettings(terms=TEXT_ALONE)
    assert settings_for("truncate", first) != settings_for("truncate", second)
    cached: Settings = parse_settings({"cache": {}})
    for control in ("text_only", "truncate"):
        assert settings_for(control, cached) == settings_for(control, parse_settings({}))
    assert settings_for("distilled", cached).cache is not None
    assert settings_for("truncate", first).alignment.strategy == "truncate"
    assert settings_for("distilled", first).alignment.strategy == "shared"
    other: Settings = parse_settings({"training": {"learning_rate": 0.01}})
    assert settings_for("text_only", other) != settings_for("text_only", first)


def test_a_hub_that_comes_back_changes_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from pipelines.inputs import corpus_fingerprint

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    settings: Settings = parse_settings({"corpus": {"sources": ["wikitext", "documentation"]}})
    answers = ["out of reach", None, None]
    monkeypatch.setattr("distillation.hub.HubReach.why_unreachable", lambda self: answers.pop(0))
    offline, online, again = (corpus_fingerprint(settings.corpus) for _ in range(3))
    assert offline != online
    assert online == again


def test_a_changed_file_changes_the_corpus(tmp_path: Path) -> None:
    from pipelines.inputs import corpus_fingerprint

    path = tmp_path / "text.txt"
    settings: Settings = parse_settings({"corpus": {"sources": [{"kind": "file", "path": str(path)}]}})
    missing = corpus_fingerprint(settings.corpus)
    path.write_text("one")
    one = corpus_fingerprint(settings.corpus)
    path.write_text("two")
    assert len({missing, one, corpus_fingerprint(settings.corpus)}) == 3


def test_changed_tasks_and_a_hub_that_comes_back_change_the_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    from pipelines.inputs import tasks_fingerprint

    def digest(**evaluation: Any) -> str:
        settings: Settings = parse_settings({"evaluation": evaluation})
        return tasks_fingerprint(settings.evaluation, 1.0)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    answers = ["out of reach", None]
    monkeypatch.setattr("distillation.hub.HubReach.why_unreachable", lambda self: answers.pop(0))
    embedded = digest()  # asks no hub
    (tmp_path / "own.yaml").write_text("task: own")
    first = digest(task_dir=str(tmp_path))
    (tmp_path / "own.yaml").write_text("task: other")
    assert len({embedded, first, digest(task_dir=str(tmp_path))}) == 3
    assert digest(tasks=["piqa"]) != digest(tasks=["piqa"])  # out of reach, then back
    assert not answers


def test_overrides_replace_values_and_whole_lists() -> None:
    from pipelines.command import merge_overrides

    base = {"training": {"batch_size": 8, "max_length": 64}, "corpus": {"sources": ["documentation"]}}
    merged = merge_overrides(
        base, ["training.batch_size=4", "corpus.sources=[wikitext, documentation]", "objective.temperature=2"]
    )
    assert merged["training"] == {"batch_size": 4, "max_length": 64}
    assert merged["corpus"]["sources"] == ["wikitext", "documentation"]
    assert merged["objective"]["temperature"] == 2
    assert base["training"]["batch_size"] == 8
    for wrong in ("training.batch_size", "=4"):
        with pytest.raises(SettingsError, match="override"):
            merge_overrides(base, [wrong])


def test_pipelines_import_without_heavy_libraries(tmp_path: Path) -> None:
    # In a file: ZenML resolves sources from the folder of the main module.
    script = tmp_path / "start.py"
    script.write_text(
        "import sys, pipelines.distillation, pipelines.promotion, pipelines.comparison\n"
        "print([name for name in ('torch', 'transformers', 'mlflow', 'great_expectations', 'datasets', "
        "'matplotlib') if name in sys.modules])\n"
    )
    environment = os.environ | {"ZENML_CONFIG_PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr
