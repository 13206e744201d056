"""The aligner that a student is trained with, kept from one job to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.config import Settings


def make_aligner(settings: Settings) -> Aligner:
    """Return the aligner of `settings`, kept from an earlier call if there was one."""
    from distillation.aligners.build import build_schedule
    from distillation.aligners.store import KEPT_ALIGNERS
    from distillation.models.load import load_pair

    tokenizers, rows = load_pair(settings.models)
    return build_schedule(settings.alignment.stages, *tokenizers.values(), **rows, cache_dir=KEPT_ALIGNERS)
