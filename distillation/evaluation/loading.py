"""Models to be measured: named, loaded in the number format that measuring needs, and freed again."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillation.config import ModelReference, ModelSettings

if TYPE_CHECKING:
    from distillation.models.decision import TeacherDecision


def as_reference(source: str | Path | ModelReference) -> ModelReference:
    """Return the reference of a directory; a reference as it is."""
    return source if isinstance(source, ModelReference) else ModelReference(path=str(source))


def directory_of(reference: ModelReference, role: Literal["teacher", "student"]) -> str:
    """Return the directory of the model, or its name on the hub."""
    from distillation.models.load import resolve_path

    return resolve_path(reference, role)


def decided(
    teacher: str | Path | ModelReference, device: str, decision: TeacherDecision | None
) -> TeacherDecision:
    """Return how models are measured: as was decided for their training, else as is decided here and now.

    Args:
        teacher: the model that students are measured beside.
        device: `auto` or the name of a device; not looked at where there is a decision.
        decision: of the job that trained the students.

    Raises:
        JobError: this machine cannot do what was decided.
        SettingsError: the device or the number format asked for is not to be had.
        ModelError: the teacher's configuration cannot be read.
    """
    from distillation.models.decision import decide_teacher

    if decision is None:
        models = {"teacher": as_reference(teacher), "device": device}
        return decide_teacher(ModelSettings.model_validate(models))
    decision.obey(
        "evaluation",
        "set models.device and models.teacher.dtype to what this machine has, which trains the students anew",
    )
    return decision


def load_for_evaluation(
    source: str | Path | ModelReference, role: Literal["teacher", "student"], decision: TeacherDecision
) -> tuple[Any, Any]:
    """Return a model and its tokenizer.

    Raises:
        ModelError: it cannot be loaded.
    """
    from distillation.models.device import choose_dtype
    from distillation.models.load import load_model, load_tokenizer

    reference, device = as_reference(source), decision.device
    tokenizer = load_tokenizer(reference, role)
    dtype: str = decision.teacher_dtype
    if role == "student":
        # Students differ in the third digit, and reduced precision would blur that: as in training, float32.
        dtype = choose_dtype(reference.dtype, device, training=True, name="models.student.dtype")
    return load_model(reference, role, device=device, dtype=dtype, attention=reference.attention), tokenizer


def free_memory() -> None:
    """Give back what models that are gone held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
