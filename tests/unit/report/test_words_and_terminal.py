"""Numbers as people read them, and a table that does not hide a loss."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from distillation.report.facts import facts
from distillation.report.terminal import summary_table
from distillation.report.words import best_student, decimal, percent, scaled, verdict_sentence


def shown(value: str) -> str:
    return value.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (17, "17"), (999, "999"), (1000, "1 k"), (999_600, "1.00 M"), (1_480_000, "1.48 M"),
     (64_000, "64 k"), (2_900_000_000, "2.90 G"), (12.345, "12.3"), (None, "–")],
)  # fmt: skip
def test_scaled(value, expected):
    assert shown(scaled(value)) == expected


def test_units_and_signs():
    assert shown(scaled(2_960_000, "B")) == "2.96 MB"
    assert shown(scaled(5, "B")) == "5 B"
    assert shown(percent(-0.418, 1)) == "−41.8 %"
    assert shown(percent(-0.0004)) == "0 %"
    assert percent(None) == decimal(None) == "–"


def render(evaluation, width=80, color=False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None
    )
    console.print(summary_table(evaluation))
    return console.file.getvalue()


def test_the_table_fits_eighty_columns_and_has_all_figures(evaluation):
    text = render(evaluation)
    assert "closes 22 % of the gap" in text
    for cell in ("2.331", "2.281", "2.591", "2.117", "1.540", "−42 %", "22 %", "64 k", "1.48 M", "2.96 MB"):
        assert cell in text
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_loss_is_called_a_loss(worse_evaluation, make_evaluation):
    assert verdict_sentence(worse_evaluation).startswith("Distillation did harm")
    assert "did harm" in render(worse_evaluation)
    equal = make_evaluation(text_only=2.2, distilled=2.1999, teacher=1.5)
    assert verdict_sentence(equal).startswith("Distillation made no difference")
    no_gap = make_evaluation(text_only=2.2, distilled=2.1, teacher=2.3)
    assert "no gap to close" in verdict_sentence(no_gap)
    assert "not evaluated: text-only student" in verdict_sentence(make_evaluation(distilled=2.1, teacher=2.3))


def test_the_best_student_stands_out_whoever_it_is(evaluation, worse_evaluation):
    assert best_student(evaluation) == "distilled"
    assert best_student(worse_evaluation) == "text_only"
    bold = [line for line in render(worse_evaluation, color=True).splitlines() if "\x1b[1;32m" in line]
    assert len(bold) == 1
    assert "text-only student" in bold[0]


def test_names_are_not_markup(make_evaluation):
    assert "[red]odd[/red]" in render(make_evaluation(**{"[red]odd[/red]": 2.0, "teacher": 1.5}), width=120)


def test_facts_flatten_and_cut():
    rows = dict(
        facts({"num_files": 1234, "leaked_share": 0.125, "inner": {"a_b": None}, "many": list(range(20))})
    )
    assert rows["files"] == "1,234"
    assert shown(rows["leaked share"]) == "12.50 %"
    assert rows["inner: a b"] == "–"
    assert shown(dict(facts({"unknown_shares": {"student": 1.0}}))["unknown shares: student"]) == "100.00 %"
    assert rows["many"].endswith("and 8 more")
