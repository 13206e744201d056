"""Settings that are dumped and validated again mean the same, and a path means the same in every place."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from distillation import config
from distillation.config import ComparisonSettings, PromotionSettings, Section, Settings, parse_settings
from distillation.errors import SettingsError

REPOSITORY = Path(__file__).resolve().parents[2]
SECTIONS = sorted(
    {one for one in vars(config).values() if isinstance(one, type) and issubclass(one, Section)} - {Section},
    key=lambda one: one.__name__,
)
VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        1,
        2,
        300,
        0.05,
        0.5,
        1.0,
        1e-4,
        float("inf"),
        float("nan"),
        "text",
        "~/place",
        "${x}",
        "[5]",
    ),
    *("org/model", "documentation", [], ["cloze"], [0, 1], ["a", "b"], {}, {"text_only.bits_per_byte": 0.1}),
    *(
        {"training.learning_rate": [1e-4, 1e-3]},
        {"low": 1, "high": 2},
        {"name": "x", "changes": {"cache": None}},
    ),
    *([{"kind": "file", "path": "~/a"}, "wikitext"], [{"kind": "hub", "path": "a/b", "data_files": ["c"]}]),
    [
        {"kind": "file", "path": "a", "messages_column": "messages"},
        {"kind": "file", "path": "b", "text_column": "text"},
    ],
    *(
        [{"strategy": "shared", "until": 0.5}, {"strategy": "prefix", "until": 1.0}],
        {"prefix": {}, "b": {"seed": 1}},
    ),
    {
        "space": {
            "training.learning_rate": {"low": 1, "high": 5, "log": True},
            "objective.temperature": [1, 2.5],
        }
    },
]
"""What a field may be given; what it does not take is left out."""


def kind_of(raw: dict[str, Any]) -> type[Section]:
    if "comparison" in raw:
        return ComparisonSettings
    return PromotionSettings if "metric" in raw or "export_dir" in raw else Settings


def assert_it_survives(parsed: Section) -> None:
    kind = type(parsed)
    for dumped in (
        parsed.model_dump(),
        parsed.model_dump(mode="json"),
        json.loads(parsed.model_dump_json()),
        json.loads(TypeAdapter(Any).dump_json({"any": parsed}))["any"],
        yaml.safe_load(yaml.safe_dump(parsed.model_dump(mode="json"), allow_unicode=True)),
    ):
        assert kind.model_validate(dumped) == parsed


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_means_the_same_when_dumped(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())["parameters"]["settings"]
    assert_it_survives(parse_settings(raw, kind_of(raw)))


def test_a_source_of_conversations_means_the_same_when_dumped() -> None:
    source = {"kind": "file", "path": "talks.jsonl", "messages_column": "messages"}
    raw = {"corpus": {"sources": [source, {**source, "kind": "hub"}]}}
    assert_it_survives(parse_settings(raw))
    assert_it_survives(parse_settings(raw | {"comparison": {"variants": {"prefix": {}}}}, ComparisonSettings))


@cache
def values_of(kind: type[Section]) -> dict[str, list[Any]]:
    """Return for each field the values that it takes."""
    taken: dict[str, list[Any]] = {}
    for name, field in kind.model_fields.items():
        adapter = TypeAdapter(
            field.annotation if not field.metadata else kind.__pydantic_fields__[name].rebuild_annotation()
        )
        taken[name] = []
        for value in [*VALUES, *(one for one in get_args(field.annotation) if isinstance(one, str))]:
            try:
                adapter.validate_python(value)
            except ValidationError:
                continue
            taken[name].append(value)
    return taken


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_settings_mean_the_same_when_dumped(kind: type[Section], data: st.DataObject) -> None:
    raw = {}
    for name, values in values_of(kind).items():
        if values and (kind.model_fields[name].is_required() or data.draw(st.booleans(), label=name)):
            raw[name] = data.draw(st.sampled_from(values), label=name)
    try:
        parsed = kind.model_validate(raw)
    except ValidationError:  # a rule between fields
        return
    assert_it_survives(parsed)


def test_the_home_folder_is_written_out_wherever_a_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    checked = parse_settings(
        {
            "corpus": {"sources": [{"kind": "file", "path": "~/texts"}]},
            "models": {"teacher": {"path": "~/teacher"}, "student": {"path": "org/~name"}},
            "training": {"output_dir": "~/jobs"},
            "cache": {"output_dir": "~"},
            "evaluation": {"task_dir": "~/tasks"},
            "tracking": {"uri": "sqlite:///~/mlflow.db"},
            "comparison": {
                "search": {"space": {"training.learning_rate": [0.1, 0.2]}, "output_dir": "~/searches"}
            },
        },
        ComparisonSettings,
    )
    assert checked.corpus.sources[0].path == "/home/me/texts"
    assert (checked.models.teacher.path, checked.models.student.path) == ("/home/me/teacher", "org/~name")
    assert (checked.training.output_dir, checked.cache.output_dir) == ("/home/me/jobs", "/home/me")
    assert checked.evaluation.task_dir == "/home/me/tasks"
    assert checked.tracking.uri == "sqlite:////home/me/mlflow.db"
    assert checked.comparison.search.output_dir == "/home/me/searches"
    promotion = parse_settings({"export_dir": "~/champion", "uri": "~/x"}, PromotionSettings)
    assert (promotion.export_dir, promotion.uri) == ("/home/me/champion", "/home/me/x")


def test_nothing_but_the_settings_knows_the_home_folder() -> None:
    """A reader that expands `~` itself and one that does not take two places for one setting."""
    own = REPOSITORY / "distillation" / "config" / "section.py"
    packages = ("distillation", "pipelines", "steps", "tracking", "materializers", "stacks")
    users = {
        path.relative_to(REPOSITORY).as_posix()
        for package in packages
        for path in (REPOSITORY / package).rglob("*.py")
        if path != own and "expanduser" in path.read_text(encoding="utf-8")
    }
    # Files that a YAML of lm-eval names are no settings of ours.
    assert users <= {"distillation/evaluation/task_folder.py"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            {"training": {"output_dir": "${SCRATCH}/jobs"}},
            ["training.output_dir", "${SCRATCH} is not filled in"],
        ),
        (
            {"models": {"teacher": {"path": "$HOME/teacher"}}},
            ["models.teacher.path", "$HOME is not filled in"],
        ),
        (
            {"corpus": {"sources": [{"kind": "file", "path": "~nobody-of-that-name/x"}]}},
            ["no home folder ~nobody"],
        ),
        ({"evaluation": {"prompts": ["cut \ud83d"]}}, ["evaluation.prompts.0", "surrogate"]),
        ({"evaluation": {"prompts": ["a\0b"]}}, ["evaluation.prompts.0", "NUL"]),
        ({"training": {"a\nb": 1}}, ["unknown setting training.a b = 1"]),
        ({"training": {"num_epochs": float("inf")}}, ["training.num_epochs = inf", "finite"]),
    ],
)
def test_values_that_mean_nothing_are_one_line(raw: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_prompts_are_taken_as_they_stand() -> None:
    prompts = (
        "echo ${HOME",
        "const s = `${name} is`",
        r"\frac{$x$}{2}",
        "~/x",
        "2024-07-16",
        "$(date)",
        "{date}",
    )
    assert parse_settings({"evaluation": {"prompts": prompts}}).evaluation.prompts == prompts
