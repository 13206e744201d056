"""Bits per byte by group of documents as a table: how many there are, every model, and the gap closed."""

from __future__ import annotations

from typing import Any

from distillation.config import BASELINE
from distillation.evaluation.groups import TextGroup
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation
from distillation.report.drawings import WAYS
from distillation.report.words import MISSING, decimal, label, percent, scaled


def breakdown(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one table for each way to group: `title`, `columns`, `rows`, or `only` for a single group."""
    names = list(evaluation.results)
    columns = ("Group", "Documents", "Text", "Gap closed", *(_short(name) for name in names))
    return [
        {
            "title": WAYS.get(way, way).capitalize(),
            "columns": columns,
            "rows": [_row(group, names) for group in groups],
            "only": groups[0].label if len(groups) == 1 else None,
            "rest": ", ".join(groups[-1].merged),
        }
        for way, groups in evaluation.groups.items()
        if groups
    ]


def _short(name: str) -> str:
    """Return the head of a narrow column: `Distilled`, `Text-only`."""
    return label(name).removesuffix(" student").removesuffix(" logits").capitalize()


def _row(group: TextGroup, names: list[str]) -> dict[str, Any]:
    bits = group.bits_per_byte
    cells = [
        f"{group.num_documents:,}" + ("*" if group.is_small else ""),
        scaled(max(group.num_bytes.values(), default=0), "B"),
        _gap_closed(bits),
        *(decimal(bits.get(name)) for name in names),
    ]
    return {"label": group.label, "is_best": False, "cells": cells}


def _gap_closed(bits: dict[str, float]) -> str:
    """Return the share of the gap closed in this group alone, or a dash where there is no positive gap."""
    if not {DISTILLED, TEACHER, BASELINE} <= set(bits) or bits[BASELINE] <= bits[TEACHER]:
        return MISSING
    return percent((bits[BASELINE] - bits[DISTILLED]) / (bits[BASELINE] - bits[TEACHER]))
