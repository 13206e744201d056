"""Numbers that are none: what a step whose loss or gradient is not finite was made of, and kept for study.

A step is looked at once, by one number (`trainer`). Only where that is not finite, this module asks further:
which parameter, which term, which windows of which documents, teacher or student. What it finds is one line
and a folder, `nonfinite/step-N/` of the job, with the batches as they were.

Invariant: asking changes nothing: no gradient, no parameter, no random number of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distillation.errors import JobError, shorten
from distillation.files import write_atomically, write_json
from distillation.models.finite import nonfinite_tensor

if TYPE_CHECKING:
    from distillation.losses.objective import DistillationObjective

FOLDER = "nonfinite"
"""In a job's directory: one folder a step."""
MAX_NAMED = 3
"""Windows that a message names."""
LEAST_SCALE = 1.0
"""A gradient that overflows float16 at this scale of the loss is no matter of the scale."""


@dataclass(frozen=True)
class Finding:
    """What was found out about a step."""

    what: str
    """What is not finite, in words."""
    terms: tuple[str, ...]
    """Terms of the objective that are not finite by themselves; empty where only the gradient is not."""
    windows: tuple[str, ...]
    """Names of the windows that such a term comes from."""
    remedy: str
    in_parameters: bool = False
    """Whether the student itself is damaged: no later batch can be better."""


def examine(
    model: Any,
    objective: DistillationObjective,
    batches: Sequence[Mapping[str, Tensor]],
    name_of: Callable[[Mapping[str, Tensor]], str],
) -> Finding:
    """Find out what is not finite in the step that `batches` were going to make.

    Args:
        model: the student, whose gradients are those of the step, before anything is done with them.
        objective: of its patched forward pass.
        batches: of the step.
        name_of: what a message calls a window, a batch of one row.
    """
    slower = "lower training.learning_rate"
    name = nonfinite_tensor(model.named_parameters())
    if name is not None:
        return Finding(f"parameter {name} of the student", (), (), slower, in_parameters=True)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        active = tuple(objective.settings.terms.active)
        found = [
            (batch, row, terms) for batch in batches for row, terms in _faulty_rows(model, batch, active)
        ]
        teacher = objective.teacher
        is_sound = teacher is None or all(teacher.is_finite(_row(batch, row)) for batch, row, _ in found)
    windows = tuple(name_of(_row(batch, row)) for batch, row, _ in found)
    terms = tuple(dict.fromkeys(term for _, _, terms in found for term in terms))
    if teacher is not None and not is_sound:
        what = "what the teacher says" if teacher.is_live else "what the cache holds of the teacher"
        remedy = "set models.teacher.dtype to float32, or leave these documents out"
        return Finding(what, terms, windows, remedy)
    if found:
        return Finding("what the student says", terms, windows, slower)
    gradients = ((name, one.grad) for name, one in model.named_parameters() if one.grad is not None)
    name = nonfinite_tensor(gradients)
    return Finding(f"the gradient{'' if name is None else f' of {name}'}", (), (), slower)


def keep(folder: Path, process: int, batches: Sequence[Mapping[str, Tensor]], finding: Finding) -> None:
    """Write the batches of a step and what was found out about them into `folder`."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    for index, batch in enumerate(batches):
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in batch.items()}
        write_atomically(folder / f"batch-{process}-{index}.safetensors", save(tensors))
    write_json(folder / f"finding-{process}.json", asdict(finding))


def describe(step: int, finding: Finding, folder: Path) -> str:
    """Return one line: the step, what is not finite, in which term, where, and where the batch lies."""
    terms = f" ({', '.join(finding.terms)})" if finding.terms else ""
    named = ", ".join(finding.windows[:MAX_NAMED])
    more = len(finding.windows) - MAX_NAMED
    places = f" in {named}{f' and {more} more' if more > 0 else ''}" if named else ""
    return f"step {step}: {finding.what} is not finite{terms}{places}; its batch is in {folder}"


def check_student(model: torch.nn.Module, where: str) -> None:
    """Refuse to call a student good whose weights are not finite.

    Raises:
        JobError: names the first such tensor.
    """
    name = nonfinite_tensor(model.named_parameters())
    if name is not None:
        raise JobError(
            f"{where}: {name} of the student is not finite: training diverged; lower training.learning_rate"
        )


def window_name(index: int | None, origin: str | None, text: str) -> str:
    """Return what a message calls a window; one that is not found again is called by its text alone."""
    place = "a window" if index is None else f"window {index} of {origin}"
    return f"{place}, {shorten(' '.join(text.split()), 60)!r}"


def _row(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in batch.items() if tensor.ndim}


def _faulty_rows(
    model: Any, batch: Mapping[str, Tensor], active: Sequence[str]
) -> list[tuple[int, tuple[str, ...]]]:
    """Return the windows of a batch whose loss is not finite, each with the terms."""
    found = []
    for row in range(len(batch["input_ids"])):
        one = _row(batch, row)
        terms = tuple(term for term in active if not bool(model(**one, only=term)["loss"].isfinite()))
        if terms:
            found.append((row, terms))
    return found
