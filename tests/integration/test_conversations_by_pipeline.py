"""Conversations, named by `~`, partly packed and with a bad line among them, through the whole pipeline."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
PIPELINE = "pipelines.distillation.distillation_pipeline"


def test_a_run_on_conversations(
    workplace: Any,
    zenml: Callable[..., Any],
    statuses: Callable[[], dict[str, str]],
    english_documents: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for role in ("teacher", "student"):
        folder = shutil.copytree(workplace.settings["models"][role]["path"], tmp_path / role)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    lines = [
        json.dumps({"messages": [{"role": "user", "content": text[i : i + 150]},
                                 {"role": "assistant", "content": text[i + 150 : i + 300]}]}) + "\n"
        for text in english_documents for i in (0, 300, 600)
    ]  # fmt: skip
    talks = tmp_path / "talks"
    talks.mkdir()
    (talks / "a.jsonl").write_text("".join(lines[:80]) + '{"messages": 5}\n')
    with gzip.open(talks / "b.jsonl.gz", "wt") as file:
        file.writelines(lines[80:])
    (talks / "LICENSE").write_text("Take it.")
    settings = workplace.settings | {
        "corpus": {
            "sources": [{"kind": "file", "path": "~/talks", "messages_column": "messages"}],
            "held_out_share": 0.2,
            "min_document_characters": 50,
            "contract": {"max_leaking_documents_share": 1.0},
        },
        "models": {"teacher": {"path": "~/teacher"}, "student": {"path": "~/student"}, "device": "cpu"},
        "training": workplace.settings["training"] | {"max_steps": 2, "output_dir": "~/outputs/jobs"},
        "evaluation": workplace.settings["evaluation"] | {"controls": [], "tasks": []},
        "tracking": {"experiment": "talks"},
    }
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config("talks.yaml", settings), "-s", "local")
    assert result.exit_code == 0, result.output
    assert set(statuses().values()) == {"completed"}
    assert not (workplace.root / "~").exists()

    unusable = (
        "1 file: without a suffix it is not read (LICENSE)",
        "1 document: messages_column = 'messages' holds int",
    )
    report = (tmp_path / "outputs" / "report.html").read_text()
    recorder = workplace.recorder()
    experiment = recorder.client.get_experiment_by_name("talks")
    runs = recorder.client.search_runs([experiment.experiment_id], "tags.role = 'pipeline'")
    for words in unusable:
        assert f"Corpus: left out {words}" in result.output
        assert words.replace("'", "&#39;") in report
        assert words in runs[0].data.tags["corpus_left_out"]
    assert "documents to train on" in result.output

    # A changed file behind `~` is read anew.
    with (talks / "a.jsonl").open("a") as file:
        file.write(lines[0].replace("user", "system", 1))
    result = zenml("pipeline", "run", PIPELINE, "-c", workplace.config("talks.yaml", settings), "-s", "local")
    assert result.exit_code == 0, result.output
    assert statuses()["load_corpus"] == "completed"
