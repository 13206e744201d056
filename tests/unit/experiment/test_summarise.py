"""From students to a verdict: pairing, gaps, the choice on validation documents, failures, words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from comparison_bits import BITS, SEEDS

from distillation.config import EvaluationSettings
from distillation.evaluation.result import completeness
from distillation.experiment.chosen import chosen_evaluation, chosen_student
from distillation.experiment.result import Comparison
from distillation.report.comparison_words import against_best, against_control, details, sentence


def test_figures_are_paired_by_seed(comparison: Comparison) -> None:
    """Naive reference: one seed after another."""
    for name, bits in BITS.items():
        one = comparison.variant(name)
        assert one.bits_per_byte is not None
        assert one.bits_per_byte.values == pytest.approx(bits)
        if name == "text_only":
            assert one.saving is None
            assert one.gap_closed is None
            continue
        assert one.saving is not None
        assert one.gap_closed is not None
        for seed in range(len(SEEDS)):
            control = BITS["text_only"][seed]
            assert one.saving.values[seed] == pytest.approx((control - bits[seed]) / control)
            assert one.gap_closed.values[seed] == pytest.approx((control - bits[seed]) / (control - 1.540))
        assert one.saving.mean == pytest.approx(sum(one.saving.values) / 3)
        assert one.saving.low is not None
        assert one.saving.high is not None
        assert one.saving.low < one.saving.mean < one.saving.high


def test_the_verdict_in_words(comparison: Comparison) -> None:
    words = {one.name: against_control(one) for one in comparison.variants}
    assert words == {
        "text_only": "the control",
        "truncate": "worse",
        "prefix": "better",
        "shared": "better",
        "uld": "worse",
    }
    assert comparison.chosen == "prefix"
    assert comparison.chosen_seed == 2
    assert against_best(comparison.variant("shared"), "prefix") == "no measurable difference"
    assert against_best(comparison.variant("uld"), "prefix") == "worse"
    assert sentence(comparison).startswith("prefix closes 23")
    assert any("No measurable difference from it: shared" in line for line in details(comparison))
    assert any("worse than no teacher" in line for line in details(comparison))


def test_the_choice_is_made_on_validation_documents(make_comparison: Callable[..., Comparison]) -> None:
    validation = {**BITS, "shared": (2.0, 1.9, 2.05)}
    comparison = make_comparison(BITS, validation)
    assert (comparison.chosen, comparison.chosen_seed) == ("shared", 1)
    assert chosen_student(comparison).variant == "shared"


def test_a_tie_and_a_harm_are_said_as_what_they_are(make_comparison: Callable[..., Comparison]) -> None:
    # 1 % better, 1 % worse, equal: no interval over three seeds leaves out zero.
    tied = tuple(bits * factor for bits, factor in zip(BITS["text_only"], (0.99, 1.01, 1.0), strict=True))
    equal = make_comparison({**BITS, "prefix": tied, "shared": tied, "uld": tied})
    assert "no measurable difference from training on text alone" in sentence(equal)
    worse = (2.5, 2.52, 2.48)
    harm = make_comparison({**BITS, "prefix": worse, "shared": worse, "uld": worse})
    assert sentence(harm).startswith("Distillation did harm")


def test_a_failing_variant_is_reported_and_the_others_are_compared(
    make_comparison: Callable[..., Comparison],
) -> None:
    comparison = make_comparison({**BITS, "prefix": (2.0, None, 2.0), "uld": (None, None, None)})
    assert comparison.chosen == "shared"  # whole seeds go before a lucky rest
    assert comparison.variant("prefix").seeds == (0, 2)
    assert comparison.variant("prefix").failures == {1: "out of memory"}
    saving = comparison.variant("prefix").saving
    assert saving is not None
    assert len(saving.values) == 2
    assert comparison.variant("uld").bits_per_byte is None
    assert against_control(comparison.variant("uld")) == "failed"
    assert len(comparison.failures) == 4
    assert "uld seed 2: out of memory" in comparison.failures

    nothing = {**BITS, **dict.fromkeys(("prefix", "shared", "uld"), (None, None, None))}
    assert make_comparison(nothing).chosen is None
    assert sentence(make_comparison(nothing)) == "No verdict: every variant failed."
    no_control = make_comparison({**BITS, "text_only": (None, None, None)})
    assert "no text-only control" in sentence(no_control)


def test_the_chosen_student_stands_beside_the_controls_of_its_seed(comparison: Comparison) -> None:
    evaluation = chosen_evaluation(comparison, EvaluationSettings())
    assert list(evaluation.results) == ["untouched", "text_only", "truncate", "distilled", "teacher"]
    bits: dict[str, Any] = {name: one.bits_per_byte for name, one in evaluation.results.items()}
    assert bits["distilled"] == pytest.approx(BITS["prefix"][2])
    assert bits["text_only"] == pytest.approx(BITS["text_only"][2])
    assert evaluation.results["distilled"].gap_closed == pytest.approx((2.26 - 2.09) / (2.26 - 1.54))
    assert completeness(evaluation) == []


def test_a_comparison_is_kept_as_json(comparison: Comparison) -> None:
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
