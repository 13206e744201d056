"""Step `cache_teacher`: the teacher runs once over the corpus, and its targets are kept.

The step is never taken from ZenML's cache: it reads every shard through and makes anew what is damaged or
gone, which is seconds where nothing is. Its artifact has the same content then, and what follows is reused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step

from distillation.aligners.base import Aligner
from distillation.config import Settings
from distillation.teachers.cache.store import TeacherCache
from steps.console import hide_loading_bars
from steps.types import Corpus


@step(enable_cache=False, output_materializers="materializers.teacher_cache.TeacherCacheMaterializer")
def cache_teacher(
    corpus: Corpus, aligner: Aligner, settings: Settings, fingerprint: str
) -> Annotated[TeacherCache, "teacher_cache"]:
    """Fill the cache of `settings.cache`; `fingerprint` stands for the files of both models."""
    from distillation.teachers.cache.fill import fill_cache, prepare_cache

    assert settings.cache is not None
    hide_loading_bars(settings.models)
    request = prepare_cache(
        corpus, settings=settings, aligner=aligner, output_dir=Path(settings.cache.output_dir)
    )
    return fill_cache(request)
