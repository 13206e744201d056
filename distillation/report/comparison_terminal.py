"""The summary of a comparison as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillation.comparison.result import Comparison
from distillation.report.comparison_words import (
    against_best,
    against_control,
    sentence,
    variant_label,
    verdict,
    with_interval,
)
from distillation.report.words import MISSING, SPACE, decimal, scaled

if TYPE_CHECKING:
    from rich.table import Table


def comparison_table(comparison: Comparison) -> Table:
    """Return one row a variant; the chosen one stands out, and the title says how it went, good or bad."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    style = {"better": "bold green", "worse": "bold red"}.get(verdict(comparison), "bold yellow")
    teacher = next(iter(comparison.teachers.values()))
    table = Table(
        title=Text(sentence(comparison).replace(SPACE, " "), style=style),
        caption=(
            f"seeds {', '.join(map(str, comparison.seeds))}; {comparison.num_held_out_documents:,} held-out "
            f"documents; teacher {decimal(teacher.bits_per_byte)}, untouched student "
            f"{decimal(comparison.untouched.bits_per_byte)} bits/byte; less is better; "
            "(95 % interval)"
        ),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("variant", no_wrap=True)
    table.add_column("bits/byte", justify="right", no_wrap=True)
    table.add_column("gap closed", justify="right", no_wrap=True)
    table.add_column("tok/s", justify="right", no_wrap=True)
    table.add_column("beside text alone")
    table.add_column("beside the chosen")
    for one in comparison.variants:
        bits, speed = one.bits_per_byte, one.measures.get("training_tokens_per_second")
        cells = (
            variant_label(one.name),
            decimal(bits.mean if bits else None),
            with_interval(one.gap_closed),
            scaled(speed.mean if speed else None),
            against_control(one),
            MISSING if one.is_control else against_best(one, comparison.chosen),
        )
        row_style = "bold green" if one.name == comparison.chosen else "dim" if one.is_control else ""
        # Text, not markup: a name with square brackets is shown as it is.
        table.add_row(*(Text(cell.replace(SPACE, " ")) for cell in cells), style=row_style)
    return table
