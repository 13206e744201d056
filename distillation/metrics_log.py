"""The metrics log: `metrics.jsonl`, append-only, one line a logging step, each with its own digest.

    {"step": 20, "tokens": 40960, "time": 1767225600.0, "metrics": {"loss": 2.1, ...}, "seal": "9f..."}

It is what happened; MLflow and the report are views of it. A run that resumes from a checkpoint repeats steps
that are in the file already; those are not written again, so each step has each metric once. A line that is
not what was written is passed over with a warning. Each checkpoint has a copy, out of which damaged lines are
brought back; what stood after the checkpoint is written again where its steps are trained again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from distillation.errors import InputError
from distillation.files import write_atomically
from distillation.reading import parse_json, read_bytes
from distillation.seals import sealed, unsealed

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"
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
        line = sealed_line({"step": step, "tokens": tokens, "time": time.time(), "metrics": new})
        with self.path.open("a") as stream:
            stream.write(line)
            stream.flush()
            # Before the next checkpoint is whole: what lies before one is never logged again.
            os.fsync(stream.fileno())


def sealed_line(content: dict[str, Any]) -> str:
    """Return a line of a metrics log: the content as JSON, with its digest."""
    return json.dumps(sealed(content)) + "\n"


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None if it is not what was written."""
    try:
        return unsealed(parse_json(line, "a line of a metrics log"))
    except InputError:
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return what the lines of a metrics log say; of one that is not there, nothing.

    Raises:
        InputError: the file cannot be read.
    """
    lines = _lines(path)
    found = [parse_line(line) for line in lines]
    bad = [number for number, content in enumerate(found, start=1) if content is None]
    if bad:
        logger.warning(
            "%s: %d lines are not what was written and are passed over, first line %d", path, len(bad), bad[0]
        )
    return [content for content in found if content is not None]


def restore(path: Path, copy: Path) -> None:
    """Bring back what a metrics log has lost since `copy` was made of it, with a warning.

    Raises:
        InputError: one of the two cannot be read.
    """
    kept, lines = _lines(copy), _lines(path)
    if lines[: len(kept)] == kept:
        return
    known: set[tuple[int, str]] = set().union(*map(_points, kept))
    later = [line for line in lines if (points := _points(line)) and not points & known]
    logger.warning("%s: is not what was written; it is brought back from %s", path, copy)
    write_atomically(path, b"".join(line + b"\n" for line in [*kept, *later]))


def _points(line: bytes) -> set[tuple[int, str]]:
    """Return what a line measures and when; nothing if it is not what was written."""
    content = parse_line(line)
    return set() if content is None else {(content["step"], name) for name in content["metrics"]}


def _lines(path: Path) -> list[bytes]:
    """Return the lines of a file without their ends, less a last one that a killed run left torn."""
    if not path.exists():
        return []
    return read_bytes(path, max_bytes=MAX_BYTES).split(b"\n")[:-1]


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line end: the rest of a write that was killed."""
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete != len(content):
        with path.open("r+b") as stream:
            stream.truncate(complete)
