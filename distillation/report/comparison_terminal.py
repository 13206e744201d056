"""The summary of a comparison as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillation.experiment.result import Comparison
from distillation.report.comparison_words import (
    against_best,
    against_control,
    sentence,
    variant_label,
    verdict,
    with_interval,
)
from distillation.report.terminal import verdict_table
from distillation.report.words import MISSING, SPACE, decimal

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("bits/byte", "gap closed", "text alone", "chosen")
"""After the name: two figures, and how the variant stands beside text alone and beside the chosen one."""
LEVEL = "level"


def comparison_table(comparison: Comparison) -> Table:
    """Return one row a variant; the chosen one stands out, and the title says how it went, good or bad."""
    from rich.text import Text

    teacher = next(iter(comparison.teachers.values()))
    caption = (
        f"seeds {', '.join(map(str, comparison.seeds))}; {comparison.num_held_out_documents:,} held-out "
        f"documents; teacher {decimal(teacher.bits_per_byte)}, untouched student "
        f"{decimal(comparison.untouched.bits_per_byte)} bits/byte; in brackets 95 % intervals; "
        f"{LEVEL}: no measurable difference"
    )
    table = verdict_table(verdict(comparison), sentence(comparison), caption, ("variant", *COLUMNS))
    for one in comparison.variants:
        bits = one.bits_per_byte
        cells = (
            variant_label(one.name),
            decimal(bits.mean if bits else None),
            with_interval(one.gap_closed),
            _short(against_control(one)),
            MISSING if one.is_control else _short(against_best(one, comparison.chosen)),
        )
        row_style = "bold green" if one.name == comparison.chosen else "dim" if one.is_control else ""
        # Text, not markup: a name with square brackets is shown as it is.
        table.add_row(*(Text(cell.replace(SPACE, " ")) for cell in cells), style=row_style)
    return table


def _short(words: str) -> str:
    """Return a verdict in one word: the table has to fit 80 columns."""
    return {"no measurable difference": LEVEL, "the control": MISSING}.get(words, words)
