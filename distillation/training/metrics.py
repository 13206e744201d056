"""The metrics log: `metrics.jsonl`, append-only, one line a logging step.

    {"step": 20, "tokens": 40960, "time": 1767225600.0, "metrics": {"loss": 2.1, ...}}

It is what happened; MLflow and the report are views of it. A run that resumes from a checkpoint repeats steps
that are in the file already; those are not written again, so each step has each metric once. A line that
cannot be read is passed over with a warning, and its steps are written again where they are trained again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from distillation.errors import InputError
from distillation.reading import parse_json, read_bytes

logger = logging.getLogger(__name__)
MAX_BYTES = 2**31


class MetricsLog:
    """Appends to `metrics.jsonl`, skipping what an earlier run of the same job wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = {(line["step"], name) for line in read_metrics(path) for name in line["metrics"]}
        if path.exists():
            _drop_torn_line(path)

    def append(self, step: int, tokens: int, metrics: dict[str, float]) -> None:
        """Append one line, less the metrics that this step has already."""
        new = {name: value for name, value in metrics.items() if (step, name) not in self._written}
        if not new:
            return
        self._written |= {(step, name) for name in new}
        line = json.dumps({"step": step, "tokens": tokens, "time": time.time(), "metrics": new})
        with self.path.open("a") as stream:
            stream.write(line + "\n")
            stream.flush()
            # Before the next checkpoint is whole: what lies before one is never logged again.
            os.fsync(stream.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics log; a line that a killed run left torn is passed over.

    Raises:
        InputError: the file cannot be read.
    """
    if not path.exists():
        return []
    found, bad = [], []
    for number, line in enumerate(read_bytes(path, max_bytes=MAX_BYTES).split(b"\n")[:-1], start=1):
        try:
            if line:
                found.append(_checked(parse_json(line, path)))
        except InputError:
            bad.append(number)
    if bad:
        logger.warning(
            "%s: %d lines cannot be read and are passed over, first line %d", path, len(bad), bad[0]
        )
    return found


def _checked(line: Any) -> dict[str, Any]:
    """Return a line that has what every line has.

    Raises:
        InputError: it has not.
    """
    is_line = isinstance(line, dict) and isinstance(line.get("metrics"), dict)
    if not (is_line and all(isinstance(line.get(name), (int, float)) for name in ("step", "tokens", "time"))):
        raise InputError("not a line of a metrics log")
    if not all(isinstance(value, (int, float)) for value in line["metrics"].values()):
        raise InputError("not a line of a metrics log")
    return line


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line end: the rest of a write that was killed."""
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete != len(content):
        with path.open("r+b") as stream:
            stream.truncate(complete)
