"""Figures of a comparison: each variant a row, each seed a dot, the mean and its 95 % interval over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distillation.experiment.result import Comparison, VariantSummary
from distillation.experiment.statistics import Estimate
from distillation.report.comparison_words import variant_label
from distillation.report.figures import (
    FOREGROUND,
    colour_of,
    count_axis,
    dashes_of,
    grid_lines,
    label_below,
    new_figure,
)
from distillation.report.histories import History, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANT_COLOURS = ("#2a8bd0", "#d55e00", "#00a087", "#8c6bb1", "#b8a800", "#56b4e9", "#a6761d", "#e7298a")
"""Others than those of the controls and the teacher."""
VARIANT_DASHES = ("-", (0, (6, 2)), (0, (2, 1.2)), (0, (6, 2, 1.5, 2)))
NUM_GRID = 60
"""Points of a mean curve."""


def colours_of(comparison: Comparison) -> dict[str, str]:
    """Return the colour of each variant, the same in every figure; controls keep theirs."""
    names = [one.name for one in comparison.variants if not one.is_control]
    found = {one.name: colour_of(one.name) for one in comparison.variants}
    found |= {name: VARIANT_COLOURS[index % len(VARIANT_COLOURS)] for index, name in enumerate(names)}
    return found


def forest_figure(
    rows: Mapping[str, Estimate],
    colours: Mapping[str, str],
    xlabel: str,
    *,
    lines: Mapping[str, float] | None = None,
    as_percent: bool = False,
) -> Figure:
    """Rows of means with 95 % intervals and a dot for each seed; `lines` are named vertical marks."""
    figure, axes = new_figure(height=1.0 + 0.44 * len(rows))
    factor = 100.0 if as_percent else 1.0
    for row, (name, value) in enumerate(rows.items()):
        colour = colours.get(name, FOREGROUND)
        values = factor * np.array(value.values)
        axes.scatter(values, [row + 0.2] * len(values), s=14, color=colour, alpha=0.65, lw=0, zorder=3)
        if value.low is not None and value.high is not None:
            axes.plot([factor * value.low, factor * value.high], [row, row], color=colour, lw=2.4, zorder=2)
        axes.scatter([factor * value.mean], [row], s=52, color=colour, lw=0, zorder=4)
    axes.set_yticks(range(len(rows)), [variant_label(name) for name in rows])
    axes.set_ylim(len(rows) - 0.45, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for name, place in (lines or {}).items():
        axes.axvline(factor * place, color=FOREGROUND, alpha=0.55, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            name, (factor * place, 1.0), (0, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", color=FOREGROUND, fontsize=9.5,
        )  # fmt: skip
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=6)
    grid_lines(axes, "x")
    label_below(figure, xlabel)
    return figure


def bits_figure(comparison: Comparison) -> Figure:
    """Bits per byte of every variant, with the teacher as a mark."""
    rows = {one.name: one.bits_per_byte for one in comparison.variants if one.bits_per_byte is not None}
    lines = {"teacher": next(iter(comparison.teachers.values())).bits_per_byte}
    return forest_figure(
        rows, colours_of(comparison), "bits per byte of held-out text (less is better)", lines=lines
    )


def gap_figure(comparison: Comparison) -> Figure | None:
    """Gap closed by every variant; where there is no gap, the saving over text alone."""
    variants = [one for one in comparison.variants if one.control is not None]
    rows = {one.name: one.gap_closed for one in variants if one.gap_closed is not None}
    label = "gap to the teacher closed (%, more is better)"
    if not rows:
        rows = {one.name: one.saving for one in variants if one.saving is not None}
        label = "bits saved over text alone (%, more is better)"
    if not rows:
        return None
    return forest_figure(rows, colours_of(comparison), label, lines={"text alone": 0.0}, as_percent=True)


def measure_figure(
    comparison: Comparison, measure: str, xlabel: str, *, as_percent: bool = False
) -> Figure | None:
    """Any other measure of every variant that has it."""
    rows = {one.name: one.measures[measure] for one in comparison.variants if measure in one.measures}
    if not rows:
        return None
    return forest_figure(rows, colours_of(comparison), xlabel, as_percent=as_percent)


def mean_curves(
    histories: Mapping[str, Sequence[History]], metric: str, ylabel: str, colours: Mapping[str, str]
) -> Figure | None:
    """Curves over the tokens seen: the mean over seeds, with the range of the seeds shaded."""
    figure, axes = new_figure(height=3.9)
    is_empty = True
    for index, (name, seeds) in enumerate(histories.items()):
        curves = [points for points in (curve(history, metric) for history in seeds) if len(points[0]) > 1]
        if not curves:
            continue
        is_empty = False
        start, end = max(tokens[0] for tokens, _ in curves), min(tokens[-1] for tokens, _ in curves)
        grid = np.linspace(start, end, NUM_GRID)
        values = np.stack([np.interp(grid, tokens, figures) for tokens, figures in curves])
        dashes = dashes_of(name, VARIANT_DASHES[index % len(VARIANT_DASHES)])
        axes.plot(grid, values.mean(0), color=colours[name], lw=1.9, ls=dashes, label=variant_label(name))
        axes.fill_between(grid, values.min(0), values.max(0), color=colours[name], alpha=0.18, lw=0)
    if is_empty:
        return None
    axes.set_xlabel("tokens seen by the student")
    axes.set_ylabel(ylabel)
    count_axis(axes)
    axes.set_xlim(left=0)
    grid_lines(axes, "both")
    _legend_above(figure)
    return figure


def cost_figure(comparison: Comparison) -> Figure | None:
    """What a variant costs, beside what it gives: speed of the training and bits per byte."""
    colours = colours_of(comparison)
    shown = [one for one in comparison.variants if _cost(one) is not None]
    if not shown:
        return None
    figure, axes = new_figure(height=3.2)
    for one, marker in zip(shown, "osD^vPX*" * len(shown), strict=False):
        cost = _cost(one)
        assert cost is not None
        assert one.bits_per_byte is not None
        axes.scatter(
            cost.mean, one.bits_per_byte.mean, s=60, marker=marker, color=colours[one.name], lw=0, zorder=3,
            label=variant_label(one.name),
        )  # fmt: skip
    axes.set_xlabel("tokens a second in training (more is better)")
    axes.set_ylabel("bits per byte")
    count_axis(axes)
    axes.margins(0.12)
    axes.set_xlim(left=0)
    grid_lines(axes, "both")
    _legend_above(figure)
    return figure


def search_figure(values: Sequence[float | None]) -> Figure:
    """Trials of a search in their order, and the best so far."""
    figure, axes = new_figure(height=2.8)
    numbers = [index + 1 for index, value in enumerate(values) if value is not None]
    known = [value for value in values if value is not None]
    axes.scatter(numbers, known, s=34, color=VARIANT_COLOURS[0], lw=0, zorder=3, label="a trial")
    axes.step(
        numbers,
        np.minimum.accumulate(known),
        where="post",
        color=VARIANT_COLOURS[1],
        lw=1.8,
        label="best so far",
    )
    axes.set_xlabel("trial")
    axes.set_ylabel("validation bits per byte")
    axes.locator_params(axis="x", integer=True)
    grid_lines(axes, "both")
    axes.legend(frameon=False, fontsize=10, labelcolor=FOREGROUND)
    return figure


def _legend_above(figure: Figure) -> None:
    """Name the variants above the axes, where no curve is."""
    figure.legend(
        frameon=False, fontsize=9.5, labelcolor=FOREGROUND, loc="outside upper left", ncols=2,
        columnspacing=1.2,
    )  # fmt: skip


def _cost(one: VariantSummary) -> Estimate | None:
    return one.measures.get("training_tokens_per_second") if one.bits_per_byte is not None else None
