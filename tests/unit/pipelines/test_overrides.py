"""Changes on the command line: dotted names, values as in a file, nothing filled in."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from distillation.errors import SettingsError
from pipelines.command import merge_overrides

SETTINGS: dict[str, Any] = {
    "seed": 1,
    "cache": None,
    "evaluation": {"prompts": ["echo ${HOME", "${seed}"], "tasks": ["cloze"]},
    "corpus": {"sources": [{"kind": "file", "path": "a"}, "documentation"]},
}


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("training.batch_size=4", ("training", "batch_size"), 4),
        ("cache.kind=top_k", ("cache",), {"kind": "top_k"}),
        ("objective.terms={forward_kl: 1}", ("objective", "terms"), {"forward_kl": 1}),
        ("evaluation.prompts=[a, 'b=${c}']", ("evaluation", "prompts"), ["a", "b=${c}"]),
        ("corpus.sources.0.path=~/b", ("corpus", "sources", 0, "path"), "~/b"),
        ("corpus.sources.1={kind: file, path: c}", ("corpus", "sources", 1), {"kind": "file", "path": "c"}),
        ("models.student.revision=2024-07-16", ("models", "student", "revision"), "2024-07-16"),
        ("tracking.experiment=a ${b} c=d", ("tracking", "experiment"), "a ${b} c=d"),
        ("evaluation.task_dir=", ("evaluation", "task_dir"), None),
        ("evaluation.task_dir=null", ("evaluation", "task_dir"), None),
        (" seed =2", ("seed",), 2),
    ],
)
def test_one_place_is_changed(override: str, place: tuple[Any, ...], value: Any) -> None:
    before = copy.deepcopy(SETTINGS)
    merged = merge_overrides(SETTINGS, [override])
    assert before == SETTINGS
    found: Any = merged
    for part in place:
        found = found[part]
    assert found == value
    if place[0] != "evaluation":
        assert merged["evaluation"] == SETTINGS["evaluation"]


@pytest.mark.parametrize(
    "override",
    ["seed", "=3", "seed.x=1", "corpus.sources.2=documentation", "corpus.sources.first=documentation", "a=[",
     "evaluation.prompts.0.x=1", "evaluation.prompts=[echo ${HOME]"],
)  # fmt: skip
def test_what_cannot_be_applied_is_one_line(override: str) -> None:
    with pytest.raises(SettingsError, match="override") as caught:
        merge_overrides(SETTINGS, [override])
    assert "\n" not in str(caught.value)
    assert override.strip() in str(caught.value)
