"""What a comparison trains: shared controls, fair ones, a stable order, and settings that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distillation.config import TEXT_ALONE, ComparisonSettings, Settings, change_settings, parse_settings
from distillation.errors import SettingsError
from distillation.experiment.plan import make_plan, settings_for


def parse(comparison: dict[str, Any], **more: Any) -> ComparisonSettings:
    return parse_settings({"comparison": comparison, **more}, ComparisonSettings)


def test_variants_keep_their_order_however_they_are_stored() -> None:
    settings = parse({"variants": {"z": {}, "a": {"objective.temperature": 2.0}}})
    assert list(settings.comparison.all_variants) == ["z", "a"]
    stored = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    again = parse_settings(json.loads(stored), ComparisonSettings)
    assert list(again.comparison.all_variants) == ["z", "a"]
    assert again == settings


def test_variants_that_train_alike_share_their_control() -> None:
    plan = make_plan(
        parse({"variants": {"prefix": {}, "shared": {"alignment.strategy": "shared"}}, "seeds": [3, 1]})
    )
    assert [entry.name for entry in plan.entries()] == [
        f"{name} seed {seed}" for seed in (3, 1) for name in ("text_only", "truncate", "prefix", "shared")
    ]
    assert plan.control_of == {"truncate": "text_only", "prefix": "text_only", "shared": "text_only"}
    for entry in plan.entries():
        assert entry.settings.seed == entry.seed
        assert entry.settings.objective.uses_teacher == (entry.kind != "text_only")
    assert plan.controls["text_only"].objective.terms == TEXT_ALONE
    assert plan.controls["truncate"].alignment.strategy == "truncate"


def test_a_variant_that_trains_otherwise_has_a_control_that_does_so_too() -> None:
    plan = make_plan(
        parse(
            {
                "variants": {
                    "long": {"training.num_epochs": 2.0},
                    "long and shared": {"training.num_epochs": 2.0, "alignment.strategy": "shared"},
                    "kept elsewhere": {"objective.temperature": 2.0},
                }
            },
            evaluation={"controls": ["text_only"]},
        )
    )
    assert plan.control_of == {
        "long": "text_only of long",
        "long and shared": "text_only of long",
        "kept elsewhere": "text_only",
    }
    assert plan.controls["text_only of long"].training.num_epochs == 2.0
    assert list(plan.controls) == ["text_only of long", "text_only"]


def test_another_teacher_is_another_pair_with_its_own_control() -> None:
    plan = make_plan(parse({"variants": {"a": {}, "b": {"models.teacher": {"path": "other"}}}}))
    assert [models.teacher.path for models in plan.teachers] == ["sample", "other"]
    assert plan.control_of["b"] == "text_only of b"
    assert plan.controls["text_only of b"].models.teacher.path == "other"


@pytest.mark.parametrize(
    ("space", "control"),
    [
        ({"objective.temperature": {"low": 0.5, "high": 4.0}}, "text_only"),
        ({"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, "text_only of found"),
    ],
)
def test_what_a_search_finds_is_compared_with_a_control_that_trains_alike(
    space: dict[str, Any], control: str
) -> None:
    plan = make_plan(parse({"search": {"space": space}, "seeds": [0]}))
    assert plan.control_of["found"] == control
    by_name = {entry.variant: entry for entry in plan.entries()}
    name, value = next(iter(space)), 0.75 if "temperature" in str(space) else 5e-3
    found = by_name["found"].with_found({name: value})
    section, field = name.split(".")
    assert getattr(getattr(found.settings, section), field) == value
    assert not found.uses_found
    alone = by_name[control].with_found({name: value}).settings
    assert alone.objective.terms == TEXT_ALONE
    if section == "training":
        assert alone.training == found.settings.training


def test_a_grid_is_every_combination() -> None:
    settings = parse(
        {
            "variants": {"plain": {}},
            "grid": {
                "alignment.strategy": ["prefix", "shared"],
                "objective.terms": [{"reverse_kl": 1.0}, {"cross_entropy": 0.1, "forward_kl": 0.9}],
            },
        }
    )
    assert list(settings.comparison.all_variants) == [
        "plain",
        "strategy prefix terms 1 reverse_kl",
        "strategy prefix terms 0.1 cross_entropy 0.9 forward_kl",
        "strategy shared terms 1 reverse_kl",
        "strategy shared terms 0.1 cross_entropy 0.9 forward_kl",
    ]


def test_a_grid_of_teachers_has_names_and_repeats_keep_apart() -> None:
    teachers = [{"path": "sample"}, {"path": "models/large"}]
    grid = {"objective.temperature": [1.0, 1.0000001], "models.teacher": teachers}
    names = list(parse({"grid": grid}).comparison.all_variants)
    assert names == [
        "teacher sample path temperature 1",
        "teacher sample path temperature 1 2",
        "teacher models-large path temperature 1",
        "teacher models-large path temperature 1 4",
    ]
    turned = dict(reversed(grid.items()))
    assert list(parse({"grid": turned}).comparison.all_variants) == names


def test_changes_replace_values_and_switch_sections_on() -> None:
    settings: Settings = parse_settings({})
    changed = change_settings(
        settings, {"cache.kind": "sampling", "objective.terms": {"forward_kl": 1.0}, "training.batch_size": 2}
    )
    assert changed.cache is not None
    assert changed.objective.terms.active == {"forward_kl": 1.0}
    assert changed.training.batch_size == 2
    assert type(changed) is Settings
    assert settings.cache is None


def rate(**limits: Any) -> dict[str, Any]:
    """Return a plan that searches for a learning rate."""
    return {"search": {"space": {"training.learning_rate": limits}}}


GOLD_FROM_CACHE = {"cache.kind": "sampling", "objective.terms": {"gold": 1}}


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        ({}, ["comparison", "variants, grid and search"]),
        ({"variants": {"a": {"corpus.max_train_bytes": 5}}}, ["corpus.max_train_bytes", "same for all"]),
        ({"variants": {"a": {"models.student": {"path": "x"}}}}, ["models.student"]),
        ({"variants": {"a": {"seed": 5}}}, ["seed", "same for all"]),
        ({"variants": {"a": {"training.output_dir": "x"}}}, ["training.output_dir"]),
        ({"variants": {"a": {"alignment.strateg": "x"}}}, ["variant 'a'", "did you mean strategy?"]),
        ({"variants": {"a": {"alignment.strategy.x": 1}}}, ["alignment.strategy.x", "no settings inside"]),
        ({"variants": {"a": GOLD_FROM_CACHE}}, ["objective.terms.gold"]),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, ["'a' is there twice"]),
        ({"variants": {"text_only": {}}}, ["name of a control"]),
        ({"variants": {"a/b": {}}}, ["'a/b' is no name"]),
        ({"variants": {"a": {}}, "seeds": [1, 1]}, ["comparison.seeds", "counts once"]),
        ({"variants": {"a": {}}, "seeds": []}, ["comparison.seeds"]),
        ({"grid": {"alignment.strategy": []}}, ["comparison.grid"]),
        (rate(low=1, high=0.1), ["low must be below high"]),
        (rate(low=0, high=0.1, log=True), ["above 0"]),
        ({"search": {"space": {"alignment.strategy": ["prefix", "b"]}}}, ["'b'", "must be 'prefix'"]),
        (rate(low=0.1, high=5), ["5", "less than or equal to 1"]),
        ({"search": {"space": {}}}, ["comparison.search.space"]),
    ],
)  # fmt: skip
def test_faulty_plans_are_one_line(comparison: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(comparison)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_settings_that_a_control_does_not_depend_on_are_at_their_defaults() -> None:
    first: Settings = parse_settings({"objective": {"temperature": 3.0}, "alignment": {"strategy": "shared"}})
    assert settings_for("text_only", first) == settings_for("text_only", parse_settings({}))
