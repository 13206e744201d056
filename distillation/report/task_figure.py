"""The figure of a task: one dot a model, its standard error, and what a guess gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distillation.report.figures import FOREGROUND, bar_frame, colour_of, new_figure
from distillation.report.words import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def share_figure(
    shares: Mapping[str, tuple[float, float]],
    texts: Sequence[str],
    xlabel: str,
    *,
    chance: float | None = None,
) -> Figure:
    """Dots of (share, standard error), one a model, with bars of one error; a line marks `chance`."""
    names = list(shares)
    figure, axes = new_figure(height=0.95 + 0.38 * len(names))
    for row, (name, (share, error)) in enumerate(shares.items()):
        axes.errorbar(
            share, row, xerr=error, fmt="o", ms=7.5, color=colour_of(name, row), elinewidth=2.2, capsize=0,
            zorder=3,
        )  # fmt: skip
        axes.annotate(
            texts[row], (1.0, row), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="left", va="center", color=FOREGROUND, fontsize=10,
        )  # fmt: skip
    if chance is not None:
        axes.axvline(chance, color=FOREGROUND, alpha=0.55, lw=0.9, ls=(0, (4, 3)), zorder=2)
        axes.annotate(
            "a guess", (chance, 1.0), (0, 3), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", color=FOREGROUND, fontsize=10,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    bar_frame(axes)
    highest = max([share + error for share, error in shares.values()] + [chance or 0.0, 0.01])
    axes.set_xlim(-0.03 * highest, min(1.03, 1.12 * highest))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel(xlabel)
    return figure
