"""Training curves out of the metrics logs of job directories.

A step may have several lines, of training and of evaluation: here it is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillation.metrics_log import read_metrics

History = Sequence[Mapping[str, Any]]
"""Lines of one metrics log, in order of their steps."""

MAX_POINTS = 150
"""A curve with more is averaged over stretches of equal length, or it could not be read."""


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of the metrics log `path` in order of their steps; empty if there is no such file."""
    return merge_steps(read_metrics(Path(path)))


def merge_steps(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line a step: what later lines say of a step replaces or completes what earlier ones said."""
    merged: dict[int, dict[str, Any]] = {}
    for line in lines:
        before = merged.get(line["step"], {})
        metrics = {**before.get("metrics", {}), **line["metrics"]}
        merged[line["step"]] = {**before, **line, "metrics": metrics}
    return [merged[step] for step in sorted(merged)]


def curve(history: History, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens seen, values) of `metric`, thinned to at most `MAX_POINTS`; not-a-number is left out."""
    points = [
        (line["tokens"], line["metrics"][metric])
        for line in history
        if math.isfinite(line["metrics"].get(metric, math.nan))
    ]
    tokens, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(tokens) <= MAX_POINTS:
        return tokens, values
    parts = [np.array_split(array, MAX_POINTS) for array in (tokens, values)]
    return tuple(np.array([part.mean() for part in split]) for split in parts)  # type: ignore[return-value]
