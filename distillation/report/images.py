"""Figures as image files: PNG on white, for places that show files and not pages."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.report.figures import FOREGROUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1b1f24"
"""What stands for the page's text colour."""
DOTS_PER_INCH = 150
TITLE_INCHES = 0.32
INKED = ("color", "edgecolor", "facecolor", "markeredgecolor", "markerfacecolor")


def as_png(figure: Figure, title: str) -> bytes:
    """Return `figure` under `title` as a PNG; the figure is changed, and not for further use."""
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

    # A strip of its own: in the figure it would meet the legends that stand outside the axes.
    strip = Figure(figsize=(figure.get_figwidth(), TITLE_INCHES))
    strip.text(0.02, 0.3, title, color=INK, fontsize=12, fontweight="bold")
    _pixels(figure)  # ticks and their labels exist only once drawn
    for artist in figure.findobj():
        _ink(artist)
    buffer = io.BytesIO()
    pixels = np.vstack([_pixels(strip), _pixels(figure)])
    imsave(buffer, pixels, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _pixels(figure: Figure) -> np.ndarray:
    """Return the drawn figure on white: uint8 (height, width, 4)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DOTS_PER_INCH)
    figure.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


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
