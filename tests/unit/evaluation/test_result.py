"""The gap closed, its interval and the verdict, on figures written by hand."""

from __future__ import annotations

import pytest

from distillation.evaluation.result import completeness, flat_metrics, gap_closed


def test_gap_closed_by_hand(make_evaluation):
    evaluation = make_evaluation(untouched=2.4, text_only=2.2, truncate=2.5, distilled=2.0, teacher=1.7)
    shares = {name: result.gap_closed for name, result in evaluation.results.items()}
    assert shares["distilled"] == pytest.approx(0.4)
    assert shares["text_only"] == 0.0
    assert shares["teacher"] == pytest.approx(1.0)
    assert shares["truncate"] == pytest.approx(-0.6)
    low, high = evaluation.results["distilled"].gap_closed_interval
    assert low < 0.4 < high
    assert high - low < 0.4
    assert evaluation.verdict == "better"
    assert completeness(evaluation) == []
    assert flat_metrics(evaluation)["distilled.gap_closed"] == pytest.approx(0.4)


def test_a_worse_student_is_called_worse(make_evaluation):
    evaluation = make_evaluation(untouched=2.4, text_only=2.2, truncate=2.5, distilled=2.3, teacher=1.7)
    assert evaluation.verdict == "worse"
    assert evaluation.results["distilled"].gap_closed < 0


def test_a_difference_within_the_spread_of_documents_is_no_difference(make_evaluation):
    evaluation = make_evaluation(text_only=2.2, distilled=2.1999, teacher=1.7)
    assert evaluation.verdict == "equal"


def test_no_gap_when_the_teacher_is_no_better(make_evaluation):
    evaluation = make_evaluation(untouched=2.4, text_only=2.2, truncate=2.5, distilled=2.0, teacher=2.3)
    assert evaluation.results["distilled"].gap_closed is None
    assert evaluation.results["distilled"].gap_closed_interval is None
    assert completeness(evaluation) == [
        "the gap closed: the teacher is not better than the student trained on text alone"
    ]
    results = evaluation.results
    assert gap_closed(results["distilled"], None, results["teacher"]) is None


def test_a_figure_that_is_not_finite_is_missing(make_evaluation):
    evaluation = make_evaluation(untouched=2.4, text_only=2.2, truncate=2.5, distilled=2.0, teacher=1.7)
    broken = evaluation.results["truncate"].model_copy(update={"bits_per_byte": float("nan")})
    evaluation = evaluation.model_copy(update={"results": {**evaluation.results, "truncate": broken}})
    assert completeness(evaluation) == ["bits per byte of truncate is nan"]
