"""The gap closed, its interval and the verdict, on figures written by hand."""

from __future__ import annotations

import pytest

from distillation.evaluation.result import completeness, flat_metrics, gap_closed, skipped_tasks
from distillation.evaluation.tasks import TaskResult


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


def test_the_advantage_over_the_control_and_its_lower_end(make_evaluation):
    better = flat_metrics(make_evaluation(text_only=2.0, distilled=1.9, teacher=1.7))
    assert better["distilled.advantage"] == pytest.approx(0.05)
    assert 0 < better["distilled.advantage_low"] < 0.05
    equal = flat_metrics(make_evaluation(text_only=2.0, distilled=1.9999, teacher=1.7))
    assert equal["distilled.advantage_low"] < 0 < equal["distilled.advantage"]
    worse = flat_metrics(make_evaluation(text_only=2.0, distilled=2.1, teacher=1.7))
    assert worse["distilled.advantage"] == pytest.approx(-0.05)
    assert worse["distilled.advantage_low"] < -0.05
    assert "distilled.advantage" not in flat_metrics(make_evaluation(distilled=1.9, teacher=1.7))


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


def with_tasks(evaluation, **tasks):
    """The evaluation with these task results, by model; those of others are `rest`."""
    rest = tasks.pop("rest", ())
    results = {
        name: result.model_copy(update={"tasks": tuple(tasks.get(name, rest))})
        for name, result in evaluation.results.items()
    }
    return evaluation.model_copy(update={"results": results})


def test_tasks_that_were_not_run(make_evaluation):
    evaluation = make_evaluation(untouched=2.4, text_only=2.2, truncate=2.5, distilled=2.0, teacher=1.7)
    few, away = (TaskResult(name=name, reason=why) for name, why in (("choice", "few"), ("piqa", "no hub")))
    done = TaskResult(name="choice", metric="acc", value=0.5, num_items=9)
    # Documents that are too few for an embedded task are no fault of any model; a task that was asked for is.
    assert completeness(with_tasks(evaluation, rest=(few,))) == []
    assert skipped_tasks(with_tasks(evaluation, rest=(few,))) == ["task choice: few"]
    assert completeness(with_tasks(evaluation, rest=(few, away))) == ["task piqa: no hub"]
    failed = with_tasks(evaluation, distilled=(few,), truncate=(few,), rest=(done,))
    assert completeness(failed) == ["task choice: few (of truncate, distilled)"]
    assert "distilled.task.choice.acc" not in flat_metrics(failed)
    assert flat_metrics(failed)["teacher.task.choice.acc"] == 0.5


def test_names_of_task_metrics_are_what_mlflow_takes(make_evaluation):
    from mlflow.utils.validation import _validate_metric_name

    odd = TaskResult(name="darija_(general), 1", metric="exact_match.strict-match", value=0.25, num_items=4)
    metrics = flat_metrics(with_tasks(make_evaluation(distilled=2.0, teacher=1.7), rest=(odd,)))
    (name,) = (name for name in metrics if name.startswith("distilled.task."))
    _validate_metric_name(name)
    assert name == "distilled.task.darija__general__ 1.exact_match.strict-match"
