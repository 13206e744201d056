"""Lines of `metrics.jsonl` as MLflow metrics on the axis that all runs share: tokens seen by the student.

MLflow's charts have one whole number as their x-axis, its `step`. Optimiser steps of different batch sizes
cannot be compared, tokens can; so `step` is the tokens seen, and the optimiser's step is a metric of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.metrics_log import parse_line
from tracking.names import STEP, TOKENS, shown_name

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from tracking.runs import Recorder

MAX_METRICS = 900
"""In a request; MLflow accepts 1,000."""


@dataclass(frozen=True)
class LogLine:
    """What one line says; made from the line alone, so that sending it again makes equal entries."""

    tokens: int
    metrics: list[Metric]


def read_line(line: bytes) -> LogLine | None:
    """Return the line's metrics; None if it is not what was written."""
    from mlflow.entities import Metric

    entry = parse_line(line)
    if entry is None:
        return None
    time_ms, tokens = int(entry["time"] * 1000), entry["tokens"]
    values = {shown_name(name): value for name, value in entry["metrics"].items() if value is not None}
    values |= {STEP: entry["step"], TOKENS: tokens}
    return LogLine(tokens, [Metric(name, float(value), time_ms, tokens) for name, value in values.items()])


def read_lines(lines: Iterable[bytes], before: bytes = b"") -> Iterator[LogLine]:
    """Yield what the lines say that can be read; `before` is the line that the first of them follows.

    A step can have several lines, of training and of evaluation, written at different times. Where it stands
    on the axis is said by the first of them alone, or a chart of the progress would have points twice.
    """
    last = read_line(before)
    for line in lines:
        read = read_line(line)
        if read is None:
            continue
        if last is not None and read.tokens == last.tokens:
            read = LogLine(read.tokens, [one for one in read.metrics if one.key not in (STEP, TOKENS)])
        last = read
        yield read


def grouped(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines in groups whose metrics fit one request."""
    group: list[bytes] = []
    num_metrics = 0
    for line in lines:
        read = read_line(line)
        count = len(read.metrics) if read is not None else 0
        if group and num_metrics + count > MAX_METRICS:
            yield group
            group, num_metrics = [], 0
        group.append(line)
        num_metrics += count
    if group:
        yield group


def log_history(recorder: Recorder, run_id: str, log: Path) -> None:
    """Write a whole metrics log into a run; writing it again changes nothing.

    Raises:
        TrackingError: the server fails.
    """
    before = b""
    for lines in grouped(log.read_bytes().splitlines(keepends=True)):
        metrics = [metric for one in read_lines(lines, before) for metric in one.metrics]
        before = lines[-1]
        if metrics:
            recorder.log_entries(run_id, metrics)
