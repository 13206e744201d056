"""Controls: what each changes, and one of one's own in plan, words, tags and figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from own_control import HalfText, register

from distillation.config import (
    BASELINE,
    CONTROLS,
    TEXT_ALONE,
    ComparisonSettings,
    Settings,
    parse_settings,
)
from distillation.experiment.plan import make_plan, settings_for


@pytest.mark.parametrize("name", list(CONTROLS))
def test_a_control_is_made_from_the_distilled_student(name: str) -> None:
    settings: Settings = parse_settings(
        {
            "seed": 3,
            "cache": {"kind": "top_k"},
            "alignment": {"strategy": "shared"},
            "objective": {"terms": {"cross_entropy": 0.5, "reverse_kl": 0.5}},
            "training": {"learning_rate": 0.01},
        }
    )
    control = CONTROLS[name]
    own = control.settings(settings)
    assert own.cache is None
    for kept in ("seed", "corpus", "models", "training", "evaluation", "tracking"):
        assert getattr(own, kept) == getattr(settings, kept)
    assert own.alignment != settings.alignment
    assert parse_settings(own.model_dump()) == own
    assert control.settings(own) == own
    assert "" not in (control.title, control.explanation, control.colour)


def test_the_baseline_has_no_teacher_and_truncation_only_targets() -> None:
    settings: Settings = parse_settings({"objective": {"terms": {"reverse_kl": 0.9, "hidden": 0.1}}})
    assert CONTROLS[BASELINE].settings(settings).objective.terms == TEXT_ALONE
    assert CONTROLS["truncate"].settings(settings).objective.terms.active == {"reverse_kl": 0.9}
    assert [name for name in CONTROLS if CONTROLS[name].targets_may_be_wrong] == ["truncate"]


def test_truncation_is_no_control_of_itself() -> None:
    settings: Settings = parse_settings({"alignment": {"strategy": "truncate"}})
    assert "take truncate out of evaluation.controls" in str(CONTROLS["truncate"].refusal(settings))
    assert CONTROLS[BASELINE].refusal(settings) is None
    assert CONTROLS["truncate"].refusal(parse_settings({})) is None


@pytest.fixture
def half_text(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def test_an_unknown_control_is_one_until_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {"evaluation": {"controls": ["half_text"]}}
    with pytest.raises(Exception, match="'half_text': no control has this name"):
        parse_settings(raw)
    register(monkeypatch)
    assert parse_settings(raw).evaluation.controls == ("half_text",)
    assert parse_settings({}).evaluation.controls == ("text_only", "truncate")


def test_a_control_of_ones_own_is_planned_and_cannot_be_a_variant(half_text: None) -> None:
    raw = {
        "training": {"max_steps": 10},
        "evaluation": {"controls": ["half_text"]},
        "comparison": {"seeds": [0], "variants": {"prefix": {}}},
    }
    plan = make_plan(parse_settings(raw, ComparisonSettings))
    assert [(entry.variant, entry.kind) for entry in plan.entries()] == [
        ("text_only", "text_only"),
        ("half_text", "half_text"),
        ("prefix", "distilled"),
    ]
    assert plan.control_of == {"half_text": "text_only", "prefix": "text_only"}
    assert plan.controls["half_text"].training.max_steps == 5
    assert plan.controls["text_only"].training.max_steps == 10
    with pytest.raises(Exception, match="name of a control"):
        parse_settings({"comparison": {"variants": {"half_text": {}}}}, ComparisonSettings)


def test_a_control_of_ones_own_is_shown_by_its_words(
    half_text: None, make_evaluation: Callable[..., Any]
) -> None:
    from distillation.evaluation.result import model_names
    from distillation.report.comparison_words import variant_label
    from distillation.report.figures import colour_of, dashes_of
    from distillation.report.words import explanation, label, verdict_details
    from tracking.records.tags import comparable_tags

    assert model_names() == ("untouched", "text_only", "truncate", "half_text", "distilled", "teacher")
    assert label("half_text") == variant_label("half_text") == HalfText.title
    assert explanation("half_text") == HalfText.explanation
    assert (colour_of("half_text"), dashes_of("half_text")) == ("#123456", "-")
    evaluation = make_evaluation(text_only=2.2, half_text=2.3, distilled=2.1, teacher=1.5)
    assert verdict_details(evaluation)[-1] == f"{HalfText.action} gives 2.300: worse than no teacher."
    tags = comparable_tags(settings_for("half_text", parse_settings({})), "half_text")
    assert (tags["variant"], tags["aligner"], tags["objective"]) == ("half_text", "none", "1 cross_entropy")
