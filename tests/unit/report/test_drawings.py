"""Figures as files, the table by group, and what the new figures show."""

from __future__ import annotations

import io

import numpy as np
import pytest

from distillation.report.breakdown import breakdown
from distillation.report.drawings import figure_files, group_drawings
from distillation.report.figures import FOREGROUND
from distillation.report.page import report_page
from distillation.report.suite_figures import reliability_figure


@pytest.fixture(scope="module")
def files(evaluation, histories):
    return figure_files(evaluation, histories)


def pixels(content: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return np.round(imread(io.BytesIO(content), format="png") * 255).astype(int)


def test_every_figure_of_the_page_but_the_audits_is_a_file(files, evaluation, histories):
    assert list(files)[:2] == ["figures/bits_per_byte.png", "figures/top1_agreement.png"]
    assert {"figures/reliability.png", "figures/bits_per_byte_by_kind.png"} <= set(files)
    assert "figures/training_held_out_bits_per_byte.png" in files
    assert "figures/bits_per_byte_by_script.png" not in files  # one script alone
    assert len(files) == report_page(evaluation, histories=histories).count("<svg")
    assert len(figure_files(evaluation)) == len(files) - 3


def test_files_are_white_dark_on_light_and_large_enough(files):
    marker = [int(FOREGROUND[place : place + 2], 16) for place in (1, 3, 5)]
    for path, content in files.items():
        image = pixels(content)
        assert image.shape[1] >= 600, path
        assert image[..., 3].min() == 255, path
        assert (image[0, 0, :3] == 255).all(), path
        assert (image[..., :3] < 80).all(-1).sum() > 500, path  # words in ink
        assert not (image[..., :3] == marker).all(-1).any(), path
        greenish = (image[..., 1] > 140) & (image[..., 0] < 60) & (image[..., 2] < 90)
        assert not greenish.any(), path  # no half-drawn marker colour either


def test_same_input_same_files(files, evaluation, histories):
    assert figure_files(evaluation, histories) == files


def test_the_diagram_shows_the_bins(evaluation):
    figure = reliability_figure(evaluation)
    upper, lower = figure.axes
    shown = {line.get_label(): line.get_xydata() for line in upper.lines}
    bins = evaluation.results["distilled"].reliability
    expected = list(zip(bins.mean_confidence[:14], bins.accuracy[:14], strict=True))
    np.testing.assert_allclose(shown["distilled student"], expected)
    assert {"text-only student", "distilled student", "teacher"} <= set(shown)
    np.testing.assert_allclose(lower.lines[0].get_ydata().sum(), 1.0)
    assert upper.get_ylabel()
    assert lower.get_xlabel()


def test_thin_bins_are_hollow(make_evaluation):
    evaluation = make_evaluation(distilled=2.1, teacher=1.5)
    result = evaluation.results["distilled"]
    bins = result.reliability.model_copy(update={"counts": (5, 900) + (100,) * 12 + (0,)})
    result = result.model_copy(update={"reliability": bins})
    figure = reliability_figure(evaluation.model_copy(update={"results": {"distilled": result}}))
    full, hollow = figure.axes[0].collections
    assert len(full.get_offsets()) == 13
    assert len(hollow.get_offsets()) == 1
    assert len(hollow.get_facecolor()) == 0


def test_group_figures_show_what_the_groups_have(evaluation):
    kinds, sources = (drawing.figure for drawing in group_drawings(evaluation))
    labels = [text.get_text() for text in kinds.axes[0].get_yticklabels()]
    assert labels == ["prose (30)", "code (10)"]
    dots = {series.get_label(): series.get_offsets() for series in kinds.axes[0].collections}
    values = [group.bits_per_byte["distilled"] for group in evaluation.groups["kind"]]
    np.testing.assert_allclose(dots["distilled student"], [(value, row) for row, value in enumerate(values)])
    assert [text.get_text() for text in sources.axes[0].get_yticklabels()] == [
        "folder 0 (16)", "folder 1 (16)", "folder 2 (5)", "the rest* (3)",
    ]  # fmt: skip


def test_the_table_by_group(evaluation):
    kinds, scripts, sources = breakdown(evaluation)
    assert scripts["only"] == "Latin"
    assert sources["rest"] == "<odd>, one"
    assert kinds["columns"][:4] == ("Group", "Documents", "Text", "Gap closed")
    group = evaluation.groups["kind"][0]
    bits = group.bits_per_byte
    gap = (bits["text_only"] - bits["distilled"]) / (bits["text_only"] - bits["teacher"])
    cells = [cell.replace("\u00a0", " ") for cell in kinds["rows"][0]["cells"]]
    assert cells[0] == "30"
    assert cells[2] == f"{100 * gap:.0f} %"
    assert cells[3:] == [f"{value:.3f}" for value in bits.values()]
    page = report_page(evaluation)
    assert "The rest: &lt;odd&gt;, one." in page
    assert "all held-out documents are Latin" in page
