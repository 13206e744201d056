"""The metrics log: `metrics.jsonl`, append-only, one line a logging step.

    {"step": 20, "tokens": 40960, "time": 1767225600.0, "metrics": {"loss": 2.1, ...}}

It is what happened; MLflow and the report are views of it. A run that resumes from a checkpoint repeats steps
that are in the file already; those are not written again, so each step has each metric once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics log; a line that a killed run left torn is passed over."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line end: the rest of a write that was killed."""
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete != len(content):
        with path.open("r+b") as stream:
            stream.truncate(complete)
