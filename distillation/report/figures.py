"""Figures of the report: matplotlib drawings as inline SVG that follow the page's light or dark colours.

Figures are narrow, so that their words stay readable when a phone shrinks them. Colours are Okabe and Ito's,
which colour-blind people can tell apart, and curves differ in their dashes as well. Text, axes and grid are
drawn in one marker colour that `as_svg` turns into the page's own text colour.

No pyplot: figures are plain objects, so nothing is global and nothing stays open.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillation.config import BASELINE, CONTROLS
from distillation.config.controls import Dashes
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation
from distillation.report.histories import History, curve
from distillation.report.words import decimal, label, percent, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOREGROUND = "#12ab34"
"""Marker colour of all that should have the page's text colour; no palette holds it."""
COLOURS = {
    "untouched": "#8c8c8c",
    DISTILLED: "#2a8bd0",
    TEACHER: "#009e73",
}
OTHER_COLOURS = ("#d55e00", "#56b4e9", "#b8a800")
WIDTH = 4.7  # inches: 338 points, so that ten points are ten pixels on a phone
SIDE_INCHES = 0.12
"""Kept free on each side: a browser's letters, another font's or rounded to pixels, may be the wider ones."""


def colour_of(name: str, index: int = 0) -> str:
    """Return the colour of a model, the same in every figure; `index` tells names without one apart."""
    own = CONTROLS[name].colour if name in CONTROLS else COLOURS.get(name)
    return own or OTHER_COLOURS[index % len(OTHER_COLOURS)]


def dashes_of(name: str, usual: Dashes = "-") -> Dashes:
    """Return the dashes of a model's curves: a control has its own, all others the `usual` ones."""
    return CONTROLS[name].dashes if name in CONTROLS else usual


def as_svg(figure: Figure, title: str) -> str:
    """Return `figure` as an `<svg>` element for inlining: no outside reference, read out as `title`."""
    import matplotlib

    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": title}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", drawing)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # the same names come back in every figure
    drawing = re.sub(r"'?DejaVu Sans'?(, sans-serif)?", "system-ui, sans-serif", drawing)
    drawing = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", drawing, count=1)
    drawing = re.sub(r' width="[\d.]+pt"', "", drawing, count=1)
    drawing = re.sub(r' height="[\d.]+pt"', "", drawing, count=1)
    drawing = drawing.replace(FOREGROUND, "currentColor")
    return drawing.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def bits_per_byte_figure(evaluation: Evaluation) -> Figure:
    """Bars of bits per byte, one a model, with the gap between text alone and the teacher shaded."""
    results = evaluation.results
    names = list(results)
    figure, axes = new_figure(height=0.9 + 0.42 * len(names))
    values = [results[name].bits_per_byte for name in names]
    _bars(axes, names, values, [])
    for row, value in enumerate(values):  # in a column of their own, as the lines of the gap would cross them
        axes.annotate(
            decimal(value), (1.0, row), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="left", va="center", color=FOREGROUND, fontsize=10,
        )  # fmt: skip
    axes.set_xlim(0, max(values) * 1.03)
    axes.set_xlabel("bits per byte of held-out text (lower is better)")
    control, teacher, distilled = (results.get(name) for name in (BASELINE, TEACHER, DISTILLED))
    if control is None or teacher is None or control.bits_per_byte <= teacher.bits_per_byte:
        return figure
    axes.axvspan(
        teacher.bits_per_byte, control.bits_per_byte, color=COLOURS[TEACHER], alpha=0.16, lw=0, zorder=0
    )
    for value in (teacher.bits_per_byte, control.bits_per_byte):
        axes.axvline(value, color=FOREGROUND, alpha=0.55, lw=0.9, ls=(0, (4, 3)), zorder=3)
    middle = (teacher.bits_per_byte + control.bits_per_byte) / 2
    closed = f": {percent(distilled.gap_closed)} closed" if distilled is not None else ""
    axes.annotate(
        f"the gap{closed}", (middle, 1.0), (0, 3), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="center", va="bottom", color=FOREGROUND, fontsize=10,
    )  # fmt: skip
    return figure


def training_figure(histories: Mapping[str, History], metric: str, ylabel: str) -> Figure | None:
    """Curves of `metric` over the tokens seen, one a variant; None if no variant has it."""
    curves = {name: curve(history, metric) for name, history in histories.items()}
    curves = {name: points for name, points in curves.items() if len(points[0])}
    if not curves:
        return None
    figure, axes = new_figure(height=3.1)
    for index, (name, (tokens, values)) in enumerate(curves.items()):
        marker = "o" if len(tokens) < 15 else None
        axes.plot(
            tokens, values, color=colour_of(name, index), lw=2.0, ls=dashes_of(name), marker=marker,
            ms=4.5, label=label(name),
        )  # fmt: skip
    axes.set_xlabel("tokens seen by the student")
    axes.set_ylabel(ylabel)
    count_axis(axes)
    axes.set_xlim(left=0)
    grid_lines(axes, "both")
    legend = axes.legend(frameon=False, fontsize=10, labelcolor=FOREGROUND)
    legend.set_zorder(5)
    return figure


def bar_figure(
    values: Mapping[str, float],
    texts: Sequence[str],
    xlabel: str,
    *,
    is_share: bool = False,
    colour: str | None = None,
) -> Figure:
    """Horizontal bars of one measure, from 0; shares reach to 1. Without `colour` each model has its own."""
    names = list(values)
    figure, axes = new_figure(height=0.75 + 0.38 * len(names))
    _bars(axes, names, list(values.values()), texts, colour)
    if is_share:
        _share_axis(axes)
    else:
        count_axis(axes)
    label_below(figure, xlabel)
    return figure


def paired_bar_figure(
    pairs: Mapping[str, tuple[float, float]], legend: tuple[str, str], xlabel: str
) -> Figure:
    """Two bars of shares for each name, the first pale and the second full; `legend` names the two."""
    figure, axes = new_figure(height=1.15 + 0.56 * len(pairs))
    colour = COLOURS[DISTILLED]
    for index, (name, alpha) in enumerate(zip(legend, (0.4, 1.0), strict=True)):
        rows = [row + (index - 0.5) * 0.36 for row in range(len(pairs))]
        values = [pair[index] for pair in pairs.values()]
        bars = axes.barh(rows, values, color=colour, alpha=alpha, height=0.34, zorder=2, label=name)
        axes.bar_label(
            bars, [percent(value, 1) for value in values], padding=4, fontsize=10, color=FOREGROUND
        )
    axes.set_yticks(range(len(pairs)), list(pairs))
    axes.invert_yaxis()
    bar_frame(axes)
    _share_axis(axes)
    label_below(figure, xlabel)
    axes.legend(
        frameon=False,
        fontsize=10,
        labelcolor=FOREGROUND,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        borderaxespad=0.2,
    )
    return figure


def dot_figure(
    rows: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    xlabel: str,
    *,
    is_share: bool = True,
    legend_columns: int | None = None,
) -> Figure:
    """Dots of several measures on one line for each name; `colours` names the series in the legend's order.

    Shares reach from 0 to 1; other measures span what there is, as dots need no zero. `legend_columns` breaks
    a long legend into lines.
    """
    columns = legend_columns or len(colours)
    num_lines = -(-len(colours) // columns) + sum(name.count("\n") for name in rows)
    figure, axes = new_figure(height=1.05 + 0.36 * len(rows) + 0.2 * num_lines)
    for (series, colour), marker in zip(colours.items(), "osD^vP", strict=False):
        places = [row for row, shares in enumerate(rows.values()) if series in shares]
        values = [shares[series] for shares in rows.values() if series in shares]
        axes.scatter(values, places, s=46, color=colour, marker=marker, lw=0, zorder=3, label=series)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    bar_frame(axes)
    grid_lines(axes, "both")
    if is_share:
        _share_axis(axes)
        axes.set_xlim(-0.03, 1.03)
    label_below(figure, xlabel)
    # Over the whole figure, as long names on the left leave the axes too narrow for them.
    figure.legend(
        frameon=False, fontsize=10, labelcolor=FOREGROUND, loc="outside upper left", ncols=columns,
        handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip
    return figure


def speed_figure(evaluation: Evaluation) -> Figure:
    """Bars of text read a second: bytes, so that tokenizers can be compared."""
    values = {name: result.bytes_per_second for name, result in evaluation.results.items()}
    texts = [scaled(value, "B") for value in values.values()]
    return bar_figure(values, texts, "text read a second (bytes, more is better)")


def size_figure(evaluation: Evaluation) -> Figure:
    """Bars of the parameters that a token passes through."""
    values = {name: float(r.speed.num_active_parameters) for name, r in evaluation.results.items()}
    return bar_figure(values, [scaled(v) for v in values.values()], "parameters active for a token")


def empty_figure(height: float) -> Figure:
    """Return a figure of the common width and `height` in inches, without axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    figure.set_layout_engine("constrained", w_pad=SIDE_INCHES)
    return figure


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the common width and `height` in inches with its axes, in the page's style."""
    figure = empty_figure(height)
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Draw what frames a figure in the page's text colour, large enough for a phone."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FOREGROUND)
        axes.spines[side].set_alpha(0.5)
    axes.tick_params(colors=FOREGROUND, labelsize=10, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(FOREGROUND)
        axis.label.set_fontsize(10.5)


def label_below(figure: Figure, text: str) -> None:
    """Name the measure below the whole figure: long names on the left leave the axes too narrow for it."""
    figure.supxlabel(text, color=FOREGROUND, fontsize=10.5)


def _bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str], colour: str | None = None
) -> None:
    colours = [colour or colour_of(name, index) for index, name in enumerate(names)]
    bars = axes.barh([label(name) for name in names], values, color=colours, height=0.66, zorder=2)
    if texts:
        axes.bar_label(bars, texts, padding=4, fontsize=10, color=FOREGROUND)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, 1e-9]) * 1.17)
    bar_frame(axes)


def bar_frame(axes: Axes) -> None:
    """Leave out what bars do not need: the left axis, and ticks beside their names."""
    axes.tick_params(axis="y", length=0, labelsize=10.5)
    axes.spines["left"].set_visible(False)
    grid_lines(axes, "x")


def _share_axis(axes: Axes) -> None:
    axes.set_xlim(0, 1.17)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def count_axis(axes: Axes) -> None:
    """Write the ticks of large counts as 500 k and 1.5 M."""
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: _tick(value))


def _tick(value: float) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g} {prefix}"
    return f"{value:g}"


def grid_lines(axes: Axes, which: Any) -> None:
    """Draw faint lines behind everything, along `x`, `y` or `both`."""
    axes.grid(axis=which, color=FOREGROUND, alpha=0.15, lw=0.8, zorder=0)
    axes.set_axisbelow(True)
