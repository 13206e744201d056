"""Curves out of logs as crashes leave them, and drawings that follow the page."""

from __future__ import annotations

import json
import re

import numpy as np

from distillation.metrics_log import sealed_line
from distillation.report.figures import (
    FOREGROUND,
    as_svg,
    bits_per_byte_figure,
    colour_of,
    training_figure,
)
from distillation.report.histories import MAX_POINTS, curve, read_history


def line(step: int, **metrics: float) -> str:
    return sealed_line({"step": step, "tokens": 100 * step, "time": 0.0, "metrics": metrics})


def test_a_resumed_log_counts_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        line(1, loss=5.0),
        line(2, loss=4.0),
        line(3, loss=3.9),
        line(2, loss=4.1),
        line(2, accuracy=0.5),
    ]
    path.write_text("".join([*lines, '{"step": 4, "tok']), encoding="utf-8")
    history = read_history(path)
    assert [entry["step"] for entry in history] == [1, 2, 3]
    assert history[1]["metrics"] == {"loss": 4.1, "accuracy": 0.5}
    assert read_history(tmp_path / "nothing") == []


def test_curves_are_thinned_and_skip_what_is_not_a_number():
    history = [json.loads(line(step, loss=float(step))) for step in range(1, 1001)]
    history[10]["metrics"]["loss"] = float("nan")
    tokens, values = curve(history, "loss")
    assert len(tokens) == len(values) == MAX_POINTS
    np.testing.assert_allclose(tokens, 100 * values)
    assert np.isfinite(values).all()
    assert len(curve(history, "nothing")[0]) == 0


def test_a_figure_without_data_is_left_out(histories):
    assert training_figure(histories, "nothing", "unit") is None
    figure = training_figure(histories, "forward_kl", "nats")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["distilled student"]


def test_bars_show_the_figures_from_zero(evaluation):
    axes = bits_per_byte_figure(evaluation).axes[0]
    widths = [bar.get_width() for bar in axes.containers[0]]
    assert widths == [result.bits_per_byte for result in evaluation.results.values()]
    assert axes.get_xlim()[0] == 0
    assert any("22\u00a0% closed" in text.get_text() for text in axes.texts)
    assert "bits per byte" in axes.get_xlabel()


def test_svg_follows_the_page(evaluation):
    svg = as_svg(bits_per_byte_figure(evaluation), 'a "title" & more')
    assert svg.startswith('<svg role="img" aria-label="a &quot;title&quot; &amp; more"')
    assert FOREGROUND not in svg
    assert "currentColor" in svg
    assert "xmlns" not in svg
    assert "<metadata" not in svg
    assert re.search(r'<svg[^>]*\swidth="', svg) is None
    assert "distilled student</text>" in svg  # words stay words


def test_a_model_keeps_its_colour():
    assert colour_of("distilled", 0) == colour_of("distilled", 3)
    assert colour_of("odd", 0) != colour_of("other", 1)
