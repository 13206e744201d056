"""Stretches are coloured by the difference, say their figures, and keep the text as it is."""

from __future__ import annotations

import html
import re

import pytest

from distillation.report.page import report_page
from distillation.report.passages import colour_step, passage_section


@pytest.mark.parametrize(
    ("difference", "step"),
    [(0.0, ""), (0.99, ""), (-0.99, ""), (1.0, "more1"), (-1.0, "less1"), (2.5, "more2"), (-4.0, "less3"),
     (8.0, "more4"), (100.0, "more4"), (-9.0, "less4")],
)  # fmt: skip
def test_steps_of_the_colour(difference, step):
    assert colour_step(difference) == step


def spans(evaluation) -> list[tuple[str, str, str]]:
    (passage,) = passage_section(evaluation)["passages"]
    pattern = r'<span(?: class="([^"]*)")? title="([^"]*)">(.*?)</span>'
    return re.findall(pattern, passage["stretches"], re.DOTALL)


def test_each_stretch_has_a_class_for_each_student_and_its_figures(evaluation):
    (view,) = evaluation.passages
    found = spans(evaluation)
    assert len(found) == len(view.stretches)
    assert [classes for classes, _, _ in found] == [
        "tmore1", "tmore2", "dmore1 tmore3", "dmore2 tmore4", "dmore4", "dless1",
    ]  # fmt: skip
    assert found[3][1] == "teacher 2.0, distilled 5.0, text-only 10.0\u00a0bits"
    assert found[5][1] == "teacher 2.0, distilled 0.5, text-only –\u00a0bits"


def test_the_text_is_escaped_and_its_ends_of_line_are_shown(evaluation):
    shown = "".join(text for _, _, text in spans(evaluation))
    assert "&lt;list&gt;" in shown
    assert html.unescape(shown.replace("<i>↵</i>", "")) == evaluation.passages[0].text
    assert shown.count("<i>↵</i>\n") == 2


def test_the_totals_are_over_what_all_have_scored(evaluation):
    """The last stretch has no bits under one student: it counts for nobody."""
    (passage,) = passage_section(evaluation)["passages"]
    num_bytes = len("".join(evaluation.passages[0].stretches[:5]).encode())
    expected = {"teacher": 10.0, "distilled student": 10 + 14.4, "text-only student": 10 + 15.5}
    assert passage["totals"] == ", ".join(f"{name} {bits / num_bytes:.2f}" for name, bits in expected.items())


def test_one_student_or_none(make_evaluation):
    alone = make_evaluation(distilled=2.1, teacher=1.5)
    assert [student["letter"] for student in passage_section(alone)["students"]] == ["d"]
    assert report_page(alone).count('type="radio"') == 1
    assert passage_section(make_evaluation(teacher=1.5)) is None
    assert passage_section(alone.model_copy(update={"passages": ()})) is None


def test_every_class_has_a_rule(evaluation):
    page = report_page(evaluation)
    used = set(re.findall(r"\b[dt](?:more|less)[1-4]", page.split("<body>")[1]))
    ruled = set(re.findall(r"\.passages \.([dt](?:more|less)[1-4])", page.split("<body>")[0]))
    assert used <= ruled
    assert len(ruled) == 16
