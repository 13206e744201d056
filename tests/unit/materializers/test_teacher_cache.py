"""The list of a teacher cache's shards through a real local artifact store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillation.config import CacheSettings
from distillation.teachers.cache.store import TeacherCache


def test_round_trip_and_hash(stored: Callable[[type], Any], tmp_path: Path) -> None:
    from materializers.teacher_cache import TeacherCacheMaterializer

    materializer = stored(TeacherCacheMaterializer)
    cache = TeacherCache(
        directory=tmp_path / "sampling-0123",
        settings=CacheSettings(num_samples=9),
        shards={"a": "1", "b": "2"},
        metrics={"bytes_per_token": 31.5, "dense/bias": 0.01},
    )
    materializer.save(cache)
    assert materializer.load(TeacherCache) == cache
    assert [path.suffix for path in Path(materializer.uri).iterdir()] == [".json"]
    metadata = materializer.extract_metadata(cache)
    assert (metadata["kind"], metadata["bytes_per_token"]) == ("sampling, num_samples 9", 31.5)
    assert metadata["dense_bias"] == 0.01
    digest = materializer.compute_content_hash(cache)
    slower = cache.model_copy(update={"metrics": {"seconds": 9.0}})
    assert materializer.compute_content_hash(slower) == digest
    other = cache.model_copy(update={"shards": {"a": "1", "b": "3"}})
    assert materializer.compute_content_hash(other) != digest
