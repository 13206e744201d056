"""Figures as image files: PNG on white, for places that show files and not pages."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from distillation.report.figures import FOREGROUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1b1f24"
"""What stands for the page's text colour."""
DOTS_PER_INCH = 150
TITLE_INCHES = 0.3
INKED = ("color", "edgecolor", "facecolor", "markeredgecolor", "markerfacecolor")


def as_png(figure: Figure, title: str) -> bytes:
    """Return `figure` under `title` as a PNG; the figure is changed, and not for further use."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _add_title(figure, title)
    FigureCanvasAgg(figure).draw()  # ticks and their labels exist only once drawn
    for artist in figure.findobj():
        _ink(artist)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _add_title(figure: Figure, title: str) -> None:
    """Write `title` into a strip of its own on top, above legends that stand outside the axes too."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + TITLE_INCHES)
    top = height / (height + TITLE_INCHES)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(rect=(0, 0, 1, top))
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, 0, 1, top), transform=figure.transFigure)
    figure.text(0.02, top, title, color=INK, fontsize=12, fontweight="bold", va="bottom")


def _ink(artist: Any) -> None:
    """Give an artist the ink wherever it has the marker colour of the page's text."""
    from matplotlib.colors import to_rgb

    marker = to_rgb(FOREGROUND)
    for prop in INKED:
        colour = getattr(artist, f"get_{prop}", lambda: None)()
        if colour is not None and _rgb(colour) == marker:
            getattr(artist, f"set_{prop}")(INK)


def _rgb(colour: Any) -> tuple[float, float, float] | None:
    from matplotlib.colors import to_rgb

    try:
        return to_rgb(colour)
    except (ValueError, TypeError):  # `auto`, `inherit`, a colour a point: not one colour
        return None
