"""The summary of an evaluation as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillation.evaluation.result import TEACHER, Evaluation, ModelResult
from distillation.report.words import SPACE, best_student, decimal, label, percent, scaled, verdict_sentence

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("bits/byte", "gap closed", "top-1", "tok/s", "params", "size")


def summary_table(evaluation: Evaluation) -> Table:
    """Return one row a model; the best student stands out, and the title says how it went, good or bad."""
    from rich.text import Text

    caption = (
        f"{evaluation.num_held_out_documents:,} held-out documents, "
        f"{scaled(evaluation.num_held_out_bytes, 'B')}, {evaluation.device}; "
        "bits/byte: less is better; top-1: teacher's choice; tok/s: read"
    )
    table = verdict_table(evaluation.verdict, verdict_sentence(evaluation), caption, ("model", *COLUMNS))
    best = best_student(evaluation)
    for name, result in evaluation.results.items():
        row_style = "bold green" if name == best else "dim" if name == TEACHER else ""
        # Text, not markup: a name with square brackets is shown as it is.
        table.add_row(
            Text(label(name)), *(Text(cell.replace(SPACE, " ")) for cell in _cells(result)), style=row_style
        )
    return table


def _cells(result: ModelResult) -> tuple[str, ...]:
    agreement = result.agreement
    return (
        decimal(result.bits_per_byte),
        percent(result.gap_closed),
        percent(agreement.top1_agreement if agreement else None),
        scaled(result.speed.forward_tokens_per_second),
        scaled(result.speed.num_parameters),
        scaled(result.speed.size_on_disk, "B"),
    )


def verdict_table(verdict: str, sentence: str, caption: str, columns: Sequence[str]) -> Table:
    """Return a table without rows under a sentence in the colour of its verdict."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    style = {"better": "bold green", "worse": "bold red"}.get(verdict, "bold yellow")
    table = Table(
        title=Text(sentence.replace(SPACE, " "), style=style),
        caption=caption,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table
