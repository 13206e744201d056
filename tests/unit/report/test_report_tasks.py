"""Tasks in the page and in the card: figures with their errors, a guess, and what was left out."""

from __future__ import annotations

import pytest

from distillation.config import Settings
from distillation.evaluation.tasks import TaskResult
from distillation.report.card import model_card
from distillation.report.page import report_page
from distillation.report.tasks import MAX_DRAWN, task_summary

SHARES = {"untouched": 0.25, "text_only": 0.31, "truncate": 0.28, "distilled": 0.385, "teacher": 0.455}


def task(name, metric="acc", value=0.5, error=0.034, chance=0.25):
    return TaskResult(
        name=name, metric=metric, value=value, standard_error=error, num_items=200, chance=chance
    )


def with_tasks(evaluation, make):
    results = {
        name: result.model_copy(update={"tasks": tuple(make(name))})
        for name, result in evaluation.results.items()
    }
    return evaluation.model_copy(update={"results": results})


@pytest.fixture(scope="module")
def asked(evaluation):
    def make(name):
        yield task("choice", value=SHARES[name])
        yield task("choice", "acc_bytes", SHARES[name] + 0.01)
        yield task("lambada", "perplexity", 31.4159, error=None, chance=None)
        yield TaskResult(name="piqa", reason="hub <b>away</b>")

    return with_tasks(evaluation, make)


def shown(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_the_page_has_a_section_with_a_figure_and_all_measures(evaluation, asked):
    page = shown(report_page(asked))
    assert "<h2>Tasks</h2>" in page
    assert "<h2>Tasks</h2>" not in report_page(evaluation)
    assert page.count("<svg") == report_page(evaluation).count("<svg") + 1  # a perplexity is no share
    for cell in ("38.5 ± 3.4 %", "46.5 ± 3.4 %", "31.416", "25.0 %", "a guess", "Task choice"):
        assert cell in page
    assert "Left out: task piqa: hub &lt;b&gt;away" in page
    assert "task piqa" in page.split("Incomplete comparison.")[1].split("</div>")[0]


def test_the_figure_is_of_the_measure_that_length_does_not_sway(asked):
    (entry,) = task_summary(asked)["figures"]
    assert "200 items" in entry["note"]
    drawing = shown(str(entry["svg"]))
    assert "39.5 ± 3.4 %" in drawing
    assert "38.5 ± 3.4 %" not in drawing
    assert drawing.count("a guess") == 1


def test_a_task_that_one_model_lacks(evaluation):
    lacking = with_tasks(
        evaluation,
        lambda name: [TaskResult(name="choice", reason="failed")] if name == "truncate" else [task("choice")],
    )
    rows = {row["label"]: row["tasks"] for row in task_summary(lacking)["rows"]}
    assert rows["truncated logits"] == ["–"]
    assert shown(rows["teacher"][0]) == "50.0 ± 3.4 %"
    assert task_summary(lacking)["skipped"] == ["task choice: failed (of truncate)"]


def test_extremes_are_drawn(evaluation):
    for value in (0.0, 1.0):
        edge = with_tasks(
            evaluation, lambda _, value=value: [task("cloze", value=value, error=0.0, chance=None)]
        )
        assert len(task_summary(edge)["figures"]) == 1
    many = with_tasks(evaluation, lambda _: [task(f"subject {number}") for number in range(30)])
    assert len(task_summary(many)["figures"]) == MAX_DRAWN
    assert len(task_summary(many)["columns"]) == 31


def test_only_reasons_are_a_section_too(evaluation):
    page = report_page(with_tasks(evaluation, lambda _: [TaskResult(name="choice", reason="too few")]))
    assert "Left out: task choice: too few" in page
    assert "Incomplete comparison." not in page


def test_the_card_has_the_figures(asked, evaluation):
    card = model_card(asked, Settings())
    assert "| choice, acc | 25.0 % | 25.0 ± 3.4 % | 31.0 ± 3.4 % |" in card
    assert "| lambada, perplexity | – | 31.416 |" in card
    assert "lm-evaluation-harness" not in model_card(evaluation, Settings())
