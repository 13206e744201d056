"""The report of a comparison: alone in its file, escaped, complete, whichever way it went."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from distillation.config import ComparisonSettings
from distillation.corpus.left_out import LeftOut
from distillation.experiment.result import Comparison
from distillation.experiment.search import Found, Trial
from distillation.report.comparison_page import comparison_drawings, comparison_page
from distillation.report.comparison_terminal import comparison_table
from distillation.report.page import sections


@pytest.fixture(scope="module")
def found() -> Found:
    values = (2.2, None, 2.1, 2.15)
    return Found(
        changes={"objective.temperature": 1.25},
        validation_bits_per_byte=2.1,
        trials=tuple(
            Trial(
                changes={"objective.temperature": 1.0 + number / 4},
                validation_bits_per_byte=value,
                failure=None if value else "diverged <b>",
            )
            for number, value in enumerate(values)
        ),
        importances={"objective.temperature": 1.0},
    )


@pytest.fixture(scope="module")
def page(
    comparison: Comparison, comparison_settings: ComparisonSettings, histories: Any, found: Found
) -> str:
    logs = {"text_only": [histories["text_only"]] * 3, "prefix": [histories["distilled"]] * 3}
    figures = comparison_drawings(comparison, logs, found)
    expected = {"gap_closed", "bits_per_byte", "validation", "cost", "top1_agreement", "search"}
    assert expected <= {one.name for one in figures}
    return comparison_page(comparison, figures, comparison_settings, found=found)


def test_it_stands_alone_and_says_what_was_found(page: str) -> None:
    assert page.lstrip().lower().startswith("<!doctype html")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert not re.findall(r"url\((?!#)", page)
    for words in (
        "prefix closes",
        "no measurable difference",
        "truncated logits",
        "untouched student 2.331",
        "teacher 1.540",
        "Student's t over the seeds",
        "objective.temperature = 1.25",
        "diverged &lt;b&gt;",
    ):
        assert words in page
    assert page.count("<svg") >= 7


def test_each_row_holds_the_figures_of_its_variant(page: str, comparison: Comparison) -> None:
    """Naive reference: the cells of the first table beside the summaries."""
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)
    assert len(rows) == len(comparison.variants)
    for row, one in zip(rows, comparison.variants, strict=True):
        assert one.bits_per_byte is not None
        assert f"{one.bits_per_byte.mean:.3f}" in row
        if one.gap_closed is not None:
            assert f"{100 * one.gap_closed.mean:.1f}".replace("-", "−") in row
        assert ('class="best"' in row) == (one.name == comparison.chosen)


def test_names_are_escaped(make_comparison: Callable[..., Comparison], comparison_settings: Any) -> None:
    from comparison_bits import BITS

    comparison = make_comparison(BITS)
    first, *others = comparison.variants
    evil = first.model_copy(update={"name": "<script>alert(1)</script>"})
    comparison = comparison.model_copy(update={"variants": (evil, *others)})
    page = comparison_page(comparison, comparison_drawings(comparison, {}), comparison_settings)
    assert "<script>alert" not in page


def test_failures_stand_above_the_table(make_comparison: Any, comparison_settings: Any) -> None:
    from comparison_bits import BITS

    comparison = make_comparison({**BITS, "uld": (None, None, None)})
    page = comparison_page(comparison, comparison_drawings(comparison, {}), comparison_settings)
    assert "uld seed 0: out of memory" in page
    assert page.index("Failed.") < page.index("<h2>Variants")


def test_the_terminal_shows_a_row_for_each_variant(comparison: Comparison) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    text = console.export_text()
    for words in (
        "prefix",
        "shared",
        "text-only student",
        "no measurable difference",
        "gap closed",
        "chosen",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_chosen_student_has_its_corpus_and_its_training(
    comparison: Comparison, comparison_settings: ComparisonSettings, evaluation: Any, corpus_report: Any
) -> None:
    left_out = LeftOut(what="documents", cause="no JSON", count=4, places=("a.jsonl, line 3",))
    report = corpus_report.model_copy(update={"left_out": (left_out,)})
    counted = {"distilled": {"steps": 80.0, "targets": 900.0, "foretold_targets": 1000.0}}
    chosen = sections(evaluation, corpus_report=report, trainings=counted)
    page = comparison_page(comparison, [], comparison_settings, chosen=chosen)
    assert "<h2>Corpus</h2>" in page
    assert "354 training documents" in page
    assert "<td>no JSON</td><td>documents</td><td>4</td><td>a.jsonl, line 3</td>" in page
    assert "<td>900</td><td>1,000</td><td>90.0\u00a0%</td>" in page
