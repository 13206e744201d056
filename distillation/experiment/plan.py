"""Which students a comparison trains: every variant and control, once a seed.

A control is shared by all variants that train alike. "Alike" is what the text-only control depends on: the
training settings and the teacher, whose tokenizer has a say in where windows are cut. A variant that trains
longer, or with another learning rate, has a control that does so too; otherwise it would be paid for the
training and not for the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from distillation.config import (
    BASELINE,
    CONTROLS,
    FOUND,
    Changes,
    ComparisonSettings,
    EvaluationSettings,
    ModelSettings,
    Range,
    SearchSettings,
    Settings,
    change_settings,
)
from distillation.fingerprint import digest_of
from distillation.training.job import RESULT_NEUTRAL

FOUND_CONTROL = f"{BASELINE} of {FOUND}"
"""The text-only control of what a search found, where the search may change the training too."""


class Entry(BaseModel):
    """One student: a variant or a control, with one seed."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seed: int
    kind: str
    """What the job calls it: `distilled` for every variant, else the control."""
    settings: Settings
    number: int = 1
    """Its place in the plan, from 1."""
    total: int = 1
    """Students of the plan."""
    uses_found: bool = False
    """What a search found is still to be put on top of `settings`."""

    @property
    def name(self) -> str:
        """Name of the student within its comparison."""
        return f"{self.variant} seed {self.seed}"

    @property
    def learns_from_shared_aligner(self) -> bool:
        """Whether its aligner, and its teacher cache, are known before a search has found anything."""
        return self.kind == "distilled" and not self.uses_found and self.settings.objective.uses_teacher

    def with_found(self, found: Changes | None) -> Entry:
        """Return the entry with what a search found on top, where it waits for that."""
        if not self.uses_found:
            return self
        settings = change_settings(self.settings, found or {})
        return self.model_copy(update={"settings": settings_for(self.kind, settings), "uses_found": False})


@dataclass(frozen=True)
class Plan:
    """All students of a comparison."""

    base: Settings
    """What all variants start from."""
    seeds: tuple[int, ...]
    variants: dict[str, Settings]
    """Name -> settings, without the variant that a search has yet to find."""
    controls: dict[str, Settings]
    """Name -> settings: the text-only control, those of variants that train otherwise, other controls."""
    control_of: dict[str, str]
    """Variant, or another control -> the text-only control that it is compared with."""
    changes: dict[str, Changes]
    """Variant -> what it changes."""
    searched: tuple[Settings, ...]
    """Settings with each teacher that a search may choose."""

    @property
    def teachers(self) -> tuple[ModelSettings, ...]:
        """Each pair that occurs, by teacher: the shared one first."""
        used = (self.base, *self.variants.values(), *self.searched)
        return tuple({settings.models.teacher.path: settings.models for settings in used}.values())

    def entries(self) -> list[Entry]:
        """Return every student, seed by seed, controls first: a plan that is cut short has whole seeds."""
        found = list(self._entries())
        return [
            entry.model_copy(update={"number": number, "total": len(found)})
            for number, entry in enumerate(found, start=1)
        ]

    def _entries(self) -> Iterator[Entry]:
        for seed in self.seeds:
            base = self.base.model_copy(update={"seed": seed})
            for name, settings in (*self.controls.items(), *self.variants.items()):
                kind = "distilled" if name in self.variants else control_kind(name)
                yield Entry(
                    variant=name, seed=seed, kind=kind, settings=settings.model_copy(update={"seed": seed})
                )
            if FOUND in self.control_of:
                if self.control_of[FOUND] == FOUND_CONTROL:
                    yield Entry(
                        variant=FOUND_CONTROL, seed=seed, kind=BASELINE, settings=base, uses_found=True
                    )
                yield Entry(variant=FOUND, seed=seed, kind="distilled", settings=base, uses_found=True)


def make_plan(settings: ComparisonSettings) -> Plan:
    """Return the plan of a comparison; equal settings give an equal plan."""
    search = settings.comparison.search
    changes = settings.comparison.all_variants
    variants = {name: change_settings(settings, change) for name, change in changes.items()}
    base = change_settings(settings, {})
    compared = dict(variants)
    control_of: dict[str, str] = {}
    others = [name for name in settings.evaluation.controls if name != BASELINE]
    compared |= dict.fromkeys(others, base)
    if search is not None and any(name.startswith(("training.", "models.")) for name in search.space):
        control_of[FOUND] = FOUND_CONTROL
    elif search is not None:
        compared[FOUND] = base
    names: dict[str, str] = {basis(base): BASELINE}
    controls: dict[str, Settings] = {}
    for name, chosen in compared.items():
        control_of[name] = names.setdefault(basis(chosen), f"{BASELINE} of {name}")
        controls.setdefault(control_of[name], settings_for(BASELINE, chosen))
    controls |= {name: settings_for(name, base) for name in others}
    return Plan(
        base=base,
        seeds=settings.comparison.seeds,
        variants=variants,
        controls=controls,
        control_of=control_of,
        changes=dict(changes),
        searched=_with_each_teacher(base, search) if search is not None else (),
    )


def _with_each_teacher(base: Settings, search: SearchSettings) -> tuple[Settings, ...]:
    return tuple(
        change_settings(base, {name: value})
        for name, choices in search.space.items()
        if name.startswith("models.") and not isinstance(choices, Range)
        for value in choices
    )


def basis(settings: Settings) -> str:
    """Return the digest of all that the text-only control depends on."""
    training = settings.training.model_dump(mode="json", exclude=set(RESULT_NEUTRAL))
    return digest_of([training, settings.models.model_dump(mode="json")])


def settings_for(variant: str, settings: Settings) -> Settings:
    """Return the settings that the training of `variant` depends on; all others at their defaults.

    A control is made beside the distilled student of `settings`; any other variant has these settings.
    """
    own = CONTROLS[variant].settings(settings) if variant in CONTROLS else settings
    return own.model_copy(update={"evaluation": EvaluationSettings()})


def control_kind(name: str) -> str:
    """Return what a job calls the control `name`, which may be that of one variant: `KIND of VARIANT`."""
    return name.partition(" of ")[0]
