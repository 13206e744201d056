"""The report's figures as files, for whoever shows pictures and no pages."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillation.report.figures import FOREGROUND, bits_per_byte_figure
from distillation.report.histories import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distillation.evaluation import Evaluation


def figure_files(evaluation: Evaluation, histories: Mapping[str, History] | None = None) -> dict[str, bytes]:
    """Return pictures by their path; `histories` are lines of metrics logs by variant."""
    return {"figures/bits_per_byte.png": _as_png(bits_per_byte_figure(evaluation))}


def _as_png(figure: Figure) -> bytes:
    """Return the figure on white, its marker colour replaced by a dark grey."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_color() == FOREGROUND:
            text.set_color("#222222")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()
