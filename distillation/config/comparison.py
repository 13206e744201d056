"""Settings of a comparison: which students are trained beside each other, and with which seeds."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from distillation.config.controls import BASELINE, CONTROLS
from distillation.config.section import LocalPath, Section
from distillation.config.settings import Settings, set_by_name
from distillation.explanations import explain

CHANGEABLE = ("alignment", "objective", "cache", "training", "models.teacher")
"""Sections that a variant may change. Text, student, measure and seed are what makes a comparison fair."""
SHARED_FIELDS = (
    "training.output_dir",
    "training.keep_checkpoints",
    "training.when_busy",
    "cache.output_dir",
)
RESERVED_NAMES = ("teacher", "untouched", "distilled")
"""Besides those of the controls."""
FOUND = "found"
"""Name of the variant that a search adds."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}")

Changes = dict[str, Any]
"""Dotted names of settings with their values, `{alignment.strategy: shared}`."""


class Range(Section):
    """Numbers that a search may choose from."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw evenly over the logarithm: for learning rates and other scales."""
    integer: bool = False
    """Whole numbers only."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError("log needs low above 0")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest value, whole numbers where these are asked for."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)


Choices = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Any, ...], Field(min_length=2), Tag("choices")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "choices"),
]


class SearchSettings(Section):
    """An Optuna search; what it finds becomes one more variant and is trained with every seed."""

    space: Annotated[dict[str, Choices], Field(min_length=1)]
    """Dotted name of a setting -> a range, or a list to choose from."""
    num_trials: PositiveInt = 12
    """Students that are trained, each once."""
    seed: NonNegativeInt = 1000
    """Seeds the sampler and the students of the search. Other than the seeds of the comparison, so that what
    was chosen for its luck does not bring its luck along."""
    output_dir: LocalPath = "outputs/searches"
    """Folder of the studies."""


class NamedChanges(Section):
    """A variant: its name, and what it changes in the shared settings."""

    name: str
    """What tables and figures call it."""
    changes: Changes = Field(default_factory=dict)
    """Dotted names of settings with their values; none is the settings as they are."""


def _as_list(value: Any) -> Any:
    """Turn the short form, a mapping of names, into a list, whose order survives every way of storing it."""
    if not isinstance(value, dict):
        return value
    return [{"name": name, "changes": changes or {}} for name, changes in value.items()]


class ComparisonPlan(Section):
    """Variants and seeds. The settings beside this section are those that all variants start from."""

    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of the data order; every variant and control is trained once with each."""
    variants: Annotated[tuple[NamedChanges, ...], BeforeValidator(_as_list)] = ()
    """A mapping of names to changed settings, or a list of `name` and `changes`."""
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Dotted name -> values: every combination is a variant, beside those of `variants`."""
    search: SearchSettings | None = None
    """Search for a variant with Optuna; None compares what is named."""

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed counts once; leave repeats out")
        return seeds

    @field_validator("variants")
    @classmethod
    def _names_differ(cls, variants: tuple[NamedChanges, ...]) -> tuple[NamedChanges, ...]:
        names = [one.name for one in variants]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is there twice; give each variant its own name")
        return variants

    @model_validator(mode="after")
    def _names_are_good(self) -> ComparisonPlan:
        for name in self.all_variants:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"variants: {name!r} is no name: use up to 80 letters, digits, spaces and . _ -"
                )
            is_taken = name in RESERVED_NAMES or name in CONTROLS or name.startswith(f"{BASELINE} of ")
            if is_taken or (name == FOUND and self.search is not None):
                raise ValueError(f"variants: {name!r} is the name of a control; choose another")
        if not self.all_variants and self.search is None:
            raise ValueError("name at least one of variants, grid and search")
        for name, changes in self.all_variants.items():
            _check_names(f"variants.{name}", changes)
        if self.search is not None:
            _check_names("search.space", self.search.space)
        return self

    @property
    def all_variants(self) -> dict[str, Changes]:
        """Named variants and those of the grid, which are named by their values."""
        found = {one.name: one.changes for one in self.variants}
        names = sorted(self.grid)  # however the mapping was stored, a combination keeps its name
        for values in itertools.product(*(self.grid[name] for name in names)) if names else ():
            changes = dict(zip(names, values, strict=True))
            words = " ".join(f"{name.rsplit('.', 1)[-1]} {_short(value)}" for name, value in changes.items())
            found[words if words not in found else f"{words} {len(found) + 1}"] = changes
        return found


class ComparisonSettings(Settings):
    """All settings of the comparison pipeline: those of a distillation, and what is compared."""

    comparison: ComparisonPlan

    @model_validator(mode="after")
    def _every_variant_is_valid(self) -> ComparisonSettings:
        wanted = {f"variant {name!r}": change for name, change in self.comparison.all_variants.items()}
        search = self.comparison.search
        for name, choices in (search.space if search is not None else {}).items():
            values = choices.ends if isinstance(choices, Range) else choices
            wanted |= {f"comparison.search.space.{name}, {value!r}": {name: value} for value in values}
        for where, changes in wanted.items():
            try:
                change_settings(self, changes)
            except ValidationError as report:
                raise ValueError(f"{where}: {explain(Settings, report)}") from None
        return self


def change_settings(settings: Settings, changes: Changes, **update: Any) -> Settings:
    """Return plain `Settings` with dotted `changes` on top; a mapping replaces the one that was there.

    Raises:
        pydantic.ValidationError: the changed settings are not valid.
        ValueError: a name leads into a value.
    """
    raw: dict[str, Any] = settings.model_dump(exclude={"comparison"})
    for name, value in changes.items():
        set_by_name(raw, name, value)
    return Settings.model_validate(raw | update)


def _check_names(where: str, changes: Changes) -> None:
    for name in changes:
        if not name.startswith(CHANGEABLE) or name.startswith(SHARED_FIELDS):
            raise ValueError(
                f"{where}: {name} is the same for all students of a comparison; "
                f"change settings of {', '.join(CHANGEABLE)}"
            )


def _short(value: Any) -> str:
    """Return a value of the grid as part of a name."""
    if isinstance(value, dict):
        return " ".join(f"{_short(inner)} {name}" for name, inner in value.items())
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")
