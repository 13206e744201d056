"""What a comparison says: the verdict, and each variant in words, whichever way it went."""

from __future__ import annotations

from distillation.config import CONTROLS
from distillation.evaluation.result import model_names
from distillation.experiment.result import Comparison, VariantSummary
from distillation.experiment.statistics import Estimate
from distillation.report.words import MISSING, SPACE, decimal, label, percent


def variant_label(name: str) -> str:
    """Return how a variant is shown: its own name, and the usual words for a control."""
    control, _, of = name.partition(" of ")
    if control not in model_names():
        return name
    return f"{label(control)} ({of})" if of else label(control)


def with_interval(value: Estimate | None, digits: int = 1) -> str:
    """Return a share with its interval, `13.2 % (9.8 to 16.4)`."""
    if value is None:
        return MISSING
    if value.low is None or value.high is None:
        return percent(value.mean, digits)
    ends = [percent(end, digits).removesuffix(f"{SPACE}%") for end in (value.low, value.high)]
    return f"{percent(value.mean, digits)} ({ends[0]} to {ends[1]})"


def against_control(one: VariantSummary) -> str:
    """Say how a variant compares with its text-only control."""
    if one.bits_per_byte is None:
        return "failed"
    if one.control is None:
        return "the control"
    if one.saving is None:
        return "its control failed"
    return {"better": "better", "worse": "worse"}.get(one.saving.direction, "no measurable difference")


def against_best(one: VariantSummary, chosen: str | None) -> str:
    """Say how a variant compares with the chosen one."""
    if one.bits_per_byte is None or chosen is None:
        return MISSING
    if one.name == chosen:
        return "chosen"
    if one.behind_best is None:
        return MISSING
    return {"better": "better", "worse": "worse"}.get(one.behind_best.direction, "no measurable difference")


def verdict(comparison: Comparison) -> str:
    """Return `better`, `worse`, `equal` or `unknown`: the chosen variant beside its text-only control."""
    if comparison.chosen is None:
        return "unknown"
    saving = comparison.variant(comparison.chosen).saving
    return "unknown" if saving is None else saving.direction


def sentence(comparison: Comparison) -> str:
    """Return the one sentence that a reader should take away."""
    if comparison.chosen is None:
        return "No verdict: every variant failed."
    one = comparison.variant(comparison.chosen)
    if one.saving is None:
        return f"No verdict: {one.name} has no text-only control to be compared with."
    if one.saving.direction == "equal":
        return (
            f"{one.name}, the chosen variant, makes no measurable difference from training on text alone: "
            f"{with_interval(one.saving)} fewer bits."
        )
    if one.saving.direction == "worse":
        return f"Distillation did harm: {one.name}, the chosen variant, is worse than training on text alone."
    if one.gap_closed is None:
        return (
            f"{one.name} saves {percent(one.saving.mean, 1)} of the bits that training on text alone needs; "
            "the teacher is no better than that control, so there is no gap to close."
        )
    return (
        f"{one.name} closes {percent(one.gap_closed.mean)} of the gap between training on text alone and the "
        "teacher."
    )


def details(comparison: Comparison) -> list[str]:
    """Return the sentences under the verdict: its interval, who is level with it, who failed."""
    num_seeds = len(comparison.seeds)
    seeds = f"{num_seeds} seeds" if num_seeds > 1 else "one seed, so that nothing is known of others"
    lines = []
    if comparison.chosen is not None:
        one = comparison.variant(comparison.chosen)
        if one.gap_closed is not None:
            lines.append(
                f"Gap closed with its 95{SPACE}% interval: {with_interval(one.gap_closed)}, {seeds}."
            )
        level = [
            other.name
            for other in comparison.variants
            if not other.is_control and against_best(other, comparison.chosen) == "no measurable difference"
        ]
        if level:
            lines.append(f"No measurable difference from it: {', '.join(level)}.")
        better = [
            other.name
            for other in comparison.variants
            if not other.is_control
            and other.behind_best is not None
            and other.behind_best.direction == "better"
        ]
        if better:
            lines.append(
                f"On the held-out documents {', '.join(better)} did better; the choice was made on the "
                "validation documents, and stays there."
            )
    for control in (one for one in comparison.variants if one.name in CONTROLS):
        action = CONTROLS[control.name].action
        if action and control.saving is not None:
            outcome = {"equal": "makes no measurable difference from"}.get(
                control.saving.direction, f"is {control.saving.direction} than"
            )
            lines.append(
                f"{action} {outcome} no teacher at all: "
                f"{decimal(control.bits_per_byte.mean if control.bits_per_byte else None)} bits per byte."
            )
    return lines
