"""Settings of the teacher cache: the teacher runs once, and its targets are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from distillation.config.objective import DIVERGENCES, AlignmentSettings, ObjectiveSettings
from distillation.config.section import LocalPath, Section

LEARNING_ALIGNERS = ("learned", "attention")
"""Aligners whose targets change while the student is trained."""
MOST_ENTRIES = 65_535
"""Entries of a position are counted in 16 bits."""


class CacheSettings(Section):
    """Targets over the student's vocabulary, a few entries a position."""

    kind: Literal["sampling", "top_k"] = "sampling"
    """`sampling` keeps tokens drawn from the target: the gradient of forward KL is unbiased. `top_k` keeps
    the likeliest tokens with their probabilities, the mass of all others as one number, and draws from
    these others, which make forward KL unbiased too; other divergences use the one number."""
    num_samples: Annotated[int, Field(ge=1, le=MOST_ENTRIES)] = 28
    """Draws a position, for `sampling`."""
    k: Annotated[int, Field(ge=1, le=MOST_ENTRIES)] = 32
    """Likeliest tokens a position, for `top_k`."""
    num_tail_samples: Annotated[int, Field(ge=0, le=MOST_ENTRIES)] = 16
    """Draws a position from all others, for `top_k`."""
    seed: NonNegativeInt = 0
    """Seeds the draws. Apart from the seed of training, so that students of all seeds share a cache."""
    windows_per_shard: PositiveInt = 256
    """Windows in a file: what is lost when a writing process is killed."""
    output_dir: LocalPath = "outputs/teacher_caches"
    """Folder of the caches."""

    @property
    def description(self) -> str:
        """The kind with the numbers that it depends on."""
        if self.kind == "sampling":
            return f"sampling, num_samples {self.num_samples}"
        return f"top_k, k {self.k}, num_tail_samples {self.num_tail_samples}"

    @property
    def most_entries(self) -> int:
        """Most entries that a position can have."""
        return self.num_samples if self.kind == "sampling" else self.k + self.num_tail_samples

    @model_validator(mode="after")
    def _entries_fit(self) -> CacheSettings:
        if self.most_entries > MOST_ENTRIES:
            raise ValueError(
                f"k + num_tail_samples must be at most {MOST_ENTRIES}, not {self.most_entries}; lower cache.k"
            )
        return self


def refusal(cache: CacheSettings, objective: ObjectiveSettings, alignment: AlignmentSettings) -> str | None:
    """Return why a student cannot learn from a cache under these settings, and the remedy; None if it can."""
    remedy = "set cache to null for the live teacher"
    active = objective.terms.active
    cacheable = {"cross_entropy", "likelihood", *DIVERGENCES}
    live = [name for name in active if name not in cacheable]
    if live:
        name, weight = live[0], active[live[0]]
        return f"objective.terms.{name} = {weight:g} reads the teacher itself, and no cache: {remedy}"
    biased = [name for name in active if name in DIVERGENCES and name != "forward_kl"]
    if cache.kind == "sampling" and biased:
        return (
            f"cache.kind = 'sampling' is unbiased for forward_kl alone, and objective.terms.{biased[0]} = "
            f"{active[biased[0]]:g}: use cache.kind top_k, or {remedy}"
        )
    if not objective.uses_teacher:
        return "cache is set, and no term of objective.terms learns from a teacher: set cache to null"
    if len(alignment.stages) > 1:
        return f"alignment.schedule = {alignment.name!r}: a cache keeps the targets of one aligner: {remedy}"
    strategy = alignment.stages[0][0]
    if strategy in LEARNING_ALIGNERS:
        return (
            f"alignment.strategy = {strategy!r} changes its targets along training: use prefix, or {remedy}"
        )
    return None
