"""What a finished training leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from distillation.models.decision import Decision


@dataclass(frozen=True)
class Student:
    """A student on disk, with what its training measured."""

    directory: Path
    """Folder that `from_pretrained` reads."""
    variant: str
    """`distilled`, or the name of a control."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Final figures of the training."""
    history: Path | None = None
    """The job's `metrics.jsonl`."""
    decision: Decision | None = None
    """Device, number formats, attention and chunk sizes of the training."""
