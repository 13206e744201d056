"""The view token by token: text coloured by how many more or fewer bits a student needs than its teacher.

Colours are a diverging pair that colour-blind people can tell apart, orange for more and blue for fewer, in
steps; a stretch within the first step stays plain. The figures themselves stand in each stretch's title.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.config import BASELINE
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation
from distillation.report.words import MISSING, SPACE, decimal, label

if TYPE_CHECKING:
    from markupsafe import Markup

    from distillation.evaluation.token_view import PassageView

STEPS = (1.0, 2.0, 4.0, 8.0)
"""Bits from which on each step of the colour begins."""
SHORT = {TEACHER: "teacher", DISTILLED: "distilled", BASELINE: "text-only"}
LETTERS = {DISTILLED: "d", BASELINE: "t"}
"""Of the classes that colour a stretch for a student; the style sheet knows these two."""


def passage_section(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return what the template shows: `students`, `steps`, `passages`; None if nothing can be compared."""
    passages = [passage for passage in evaluation.passages if TEACHER in passage.bits]
    students = [name for name in LETTERS if any(name in passage.bits for passage in passages)]
    if not passages or not students:
        return None
    return {
        "students": [{"letter": LETTERS[name], "label": label(name)} for name in students],
        "steps": _step_names(),
        "least": f"{STEPS[0]:g}",
        "passages": [_entry(passage) for passage in passages],
    }


def colour_step(difference: float) -> str:
    """Return `more1` to `more4` or `less1` to `less4`, or nothing within the first step, by bits."""
    step = int(np.searchsorted(STEPS, abs(difference), side="right"))
    return f"{'more' if difference > 0 else 'less'}{step}" if step else ""


def _step_names() -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(STEPS)]
    return [*between, f"over {STEPS[-1]:g}"]


def _entry(passage: PassageView) -> dict[str, Any]:
    from markupsafe import Markup

    names = [name for name in SHORT if name in passage.bits]
    stretches = Markup("").join(
        _stretch(text, {name: passage.bits[name][place] for name in names})
        for place, text in enumerate(passage.stretches)
    )
    return {
        "title": f"Held-out document {passage.document + 1}, mostly {passage.kind}"
        if passage.kind != "mixed"
        else f"Held-out document {passage.document + 1}",
        "totals": _totals(passage, names),
        "stretches": stretches,
    }


def _totals(passage: PassageView, names: Sequence[str]) -> str:
    """Return the bits per byte of each model over what every one of them has scored."""
    costs = [[passage.bits[name][place] for name in names] for place in range(len(passage.stretches))]
    scored = [place for place, row in enumerate(costs) if None not in row]
    num_bytes = sum(len(passage.stretches[place].encode("utf-8")) for place in scored)
    if not num_bytes:
        return MISSING
    sums = [sum(costs[place][column] or 0.0 for place in scored) for column in range(len(names))]
    return ", ".join(
        f"{label(name)} {decimal(total / num_bytes, 2)}" for name, total in zip(names, sums, strict=True)
    )


def _stretch(text: str, bits: Mapping[str, float | None]) -> Markup:
    """Return one stretch: its classes for both students, its figures as a title, ends of lines shown."""
    from markupsafe import Markup, escape

    teacher = bits[TEACHER]
    classes = [
        LETTERS[name] + step
        for name in LETTERS
        if (cost := bits.get(name)) is not None
        and teacher is not None
        and (step := colour_step(cost - teacher))
    ]
    figures = ", ".join(f"{SHORT[name]} {decimal(cost, 1)}" for name, cost in bits.items())
    shown = escape(text).replace("\n", Markup("<i>↵</i>\n"))
    chosen = Markup(' class="{}"').format(" ".join(classes)) if classes else Markup("")
    return Markup('<span{} title="{}">{}</span>').format(chosen, f"{figures}{SPACE}bits", shown)
