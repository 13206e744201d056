"""What the trainings of a report counted: steps, targets beside those that were foretold, steps skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillation.report.words import MISSING, label, percent

Trainings = Mapping[str, Mapping[str, float]]
"""By variant what its job counted, as `JobResult.metrics` names it."""

COLUMNS = ("Student", "Steps", "Best at step", "Targets", "Foretold", "Share", "Skipped steps")


def training_rows(trainings: Trainings) -> list[dict[str, Any]]:
    """Return one row a student; what an older job has not counted, or a control does not have, is a dash."""
    return [
        {"label": label(name), "is_best": False, "cells": _cells(counts)}
        for name, counts in trainings.items()
    ]


def _cells(counts: Mapping[str, float]) -> list[str]:
    targets, foretold = counts.get("targets") or None, counts.get("foretold_targets") or None
    share = targets / foretold if targets is not None and foretold is not None else None
    return [
        _count(counts.get("steps")),
        _count(counts.get("best_step")),
        _count(targets),
        _count(foretold),
        percent(share, 1),
        _count(counts.get("skipped_steps")),
    ]


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"
