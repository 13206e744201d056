"""Figures of the evaluation suite: reliability, and bits per byte by group of documents."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distillation.config import BASELINE
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation
from distillation.report.figures import FOREGROUND, colour_of, dashes_of, dot_figure, empty_figure, style_axes
from distillation.report.words import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distillation.evaluation.groups import TextGroup
    from distillation.evaluation.reliability import Reliability

JUDGED = (BASELINE, DISTILLED, TEACHER)
"""Models of the reliability diagram: the others would hide them."""
SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]
LABEL_WIDTH = 20
"""Characters of a group's name before it is broken into lines."""
MIN_TOKENS = 30
"""A bin of fewer tokens is drawn hollow: its accuracy is known to no better than a tenth."""


def reliability_figure(evaluation: Evaluation) -> Figure | None:
    """Accuracy over confidence, bin by bin, above the share of tokens in each bin; None without any bins."""
    found = {
        name: bins
        for name in JUDGED
        if name in evaluation.results and (bins := evaluation.results[name].reliability) is not None
    }
    if not found:
        return None
    figure = empty_figure(height=5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1.0))
    for axes in (upper, lower):
        style_axes(axes)
        axes.grid(color=FOREGROUND, alpha=0.15, lw=0.8, zorder=0)
        axes.set_axisbelow(True)
    upper.plot([0, 1], [0, 1], color=FOREGROUND, alpha=0.6, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for index, (name, bins) in enumerate(found.items()):
        _draw_reliability(upper, lower, name, bins, colour_of(name, index))
    ticks = [f"{share:.0%}".replace("%", " %") for share in SHARES]
    upper.set_yticks(SHARES, ticks)
    lower.set_xticks(SHARES, ticks)
    upper.set_xlim(-0.02, 1.02)
    upper.set_ylim(-0.02, 1.02)
    lower.set_ylim(bottom=0)
    lower.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    lower.locator_params(axis="y", nbins=3)
    upper.set_ylabel("how often it was right")
    lower.set_ylabel("tokens")
    lower.set_xlabel("probability of the model's most likely token")
    upper.legend(frameon=False, fontsize=10, labelcolor=FOREGROUND, loc="upper left")
    return figure


def _draw_reliability(upper: Axes, lower: Axes, name: str, bins: Reliability, colour: str) -> None:
    total = max(sum(bins.counts), 1)
    points = [
        (confidence, accuracy, count)
        for confidence, accuracy, count in zip(bins.mean_confidence, bins.accuracy, bins.counts, strict=True)
        if confidence is not None and accuracy is not None
    ]
    style: dict[str, Any] = {"color": colour, "lw": 1.8, "ls": dashes_of(name), "zorder": 3}
    upper.plot([x for x, _, _ in points], [y for _, y, _ in points], label=label(name), **style)
    for is_few, fill in ((False, colour), (True, "none")):
        chosen = [(x, y) for x, y, count in points if (count < MIN_TOKENS) is is_few]
        if chosen:
            confidences, accuracies = zip(*chosen, strict=True)
            upper.scatter(confidences, accuracies, s=26, facecolor=fill, edgecolor=colour, zorder=4)
    lower.plot([x for x, _, _ in points], [count / total for _, _, count in points], **style)


def group_figure(groups: Sequence[TextGroup]) -> Figure:
    """Dots of every model's bits per byte, one line a group; small groups have a star."""
    names = list(dict.fromkeys(name for group in groups for name in group.bits_per_byte))
    colours = {label(name): colour_of(name, index) for index, name in enumerate(names)}
    rows = {
        group_title(group): {label(name): value for name, value in group.bits_per_byte.items()}
        for group in groups
    }
    return dot_figure(rows, colours, "bits per byte (lower is better)", is_share=False, legend_columns=3)


def group_title(group: TextGroup) -> str:
    """Return a group's name with the number of its documents, broken into lines."""
    star = "*" if group.is_small else ""
    return textwrap.fill(f"{group.label}{star} ({group.num_documents:,})", LABEL_WIDTH)
