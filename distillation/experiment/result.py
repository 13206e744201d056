"""What a comparison found: every student, and every variant over its seeds. Frozen, kept as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from distillation.evaluation.result import ModelResult
from distillation.experiment.statistics import Estimate

VALIDATION_BITS = "validation_bits_per_byte"
"""Figure of a training: bits per byte on the documents that checkpoints and the variant are chosen on."""


class StudentResult(BaseModel):
    """One student: its figures, or why there are none."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seed: int
    kind: str
    """`distilled`, or the name of a control."""
    job_dir: str = ""
    """Its job directory, with the weights and the training log; empty where none could be made."""
    result: ModelResult | None = None
    training: dict[str, float] = {}
    """Final figures of the training: validation bits per byte, steps, seconds, tokens a second."""
    failure: str | None = None
    """One line that says why it has no result."""


class VariantSummary(BaseModel):
    """A variant or control over its seeds."""

    model_config = ConfigDict(frozen=True)

    name: str
    is_control: bool
    control: str | None
    """Its text-only control; None for that control itself."""
    teacher: str
    """Path of its teacher."""
    description: str
    """Aligner and objective in words."""
    changes: dict[str, Any]
    """What it changes in the shared settings."""
    seeds: tuple[int, ...]
    """Seeds that have a result."""
    failures: dict[int, str] = {}
    """Seed -> why it has none."""
    bits_per_byte: Estimate | None = None
    saving: Estimate | None = None
    """Relative saving of bits per byte over the control of the same seed; above 0 is better."""
    gap_closed: Estimate | None = None
    """Share of the gap between the control and the teacher."""
    behind_best: Estimate | None = None
    """Relative saving over the chosen variant, so mostly below 0; None for that variant itself."""
    validation_bits_per_byte: float | None = None
    """Mean on the documents that checkpoints, and the best variant, are chosen on."""
    measures: dict[str, Estimate] = {}
    """All other measures by name."""


class Comparison(BaseModel):
    """All students of one comparison on one held-out set."""

    model_config = ConfigDict(frozen=True)

    seeds: tuple[int, ...]
    variants: tuple[VariantSummary, ...]
    """The controls first, then the variants in the order of the settings."""
    students: tuple[StudentResult, ...]
    teachers: dict[str, ModelResult]
    """Path -> figures; one teacher unless variants name others."""
    untouched: ModelResult
    chosen: str | None
    """Variant with the fewest *validation* bits per byte; None if every variant failed. It is chosen on other
    documents than those measured, so that the choice does not flatter it."""
    chosen_seed: int | None
    """Its seed with the fewest validation bits per byte: the student that promotion looks at."""
    held_out_fingerprint: str
    num_held_out_documents: int
    num_held_out_bytes: int
    device: str

    def variant(self, name: str) -> VariantSummary:
        """Return a variant or control by its name."""
        return next(one for one in self.variants if one.name == name)

    def student(self, variant: str, seed: int) -> StudentResult:
        """Return the student of a variant and seed."""
        return next(one for one in self.students if (one.variant, one.seed) == (variant, seed))

    @property
    def failures(self) -> list[str]:
        """What failed, one line a student."""
        return [
            f"{one.variant} seed {one.seed}: {one.failure}"
            for one in self.students
            if one.failure is not None
        ]
