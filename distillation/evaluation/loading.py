"""Models to be measured: named, loaded in the number format that measuring needs, and freed again."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Literal

from distillation.config import ModelReference


def as_reference(source: str | Path | ModelReference) -> ModelReference:
    """Return the reference of a directory; a reference as it is."""
    return source if isinstance(source, ModelReference) else ModelReference(path=str(source))


def directory_of(reference: ModelReference, role: Literal["teacher", "student"]) -> str:
    """Return the directory of the model, or its name on the hub."""
    from distillation.models import resolve_path

    return resolve_path(reference, role)


def resolve_device(device: str) -> str:
    """Return the name of the device that `auto` stands for."""
    from distillation.probing import choose_device

    return choose_device(device)


def load_for_evaluation(
    source: str | Path | ModelReference, role: Literal["teacher", "student"], device: str
) -> tuple[Any, Any]:
    """Return a model and its tokenizer.

    Raises:
        ModelError: it cannot be loaded.
    """
    from distillation.models import load_model, load_tokenizer
    from distillation.probing import choose_dtype

    reference = as_reference(source)
    tokenizer = load_tokenizer(reference, role)
    # Students differ in the third digit, and reduced precision would blur that: as in training, float32.
    is_student = role == "student"
    dtype = choose_dtype(reference.dtype, device, training=is_student, name=f"models.{role}.dtype")
    return load_model(reference, role, device=device, dtype=dtype, attention=reference.attention), tokenizer


def free_memory() -> None:
    """Give back what models that are gone held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
