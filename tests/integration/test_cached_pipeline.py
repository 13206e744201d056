"""The main job with a teacher cache: one more step, and a second run that finds everything there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PIPELINE = "pipelines.distillation.distillation_pipeline"


@pytest.fixture(scope="module")
def config(workplace: Any) -> str:
    cache = {"windows_per_shard": 64, "output_dir": str(workplace.root / "cached" / "teacher_caches")}
    settings = workplace.settings | {
        "cache": cache,
        "training": workplace.settings["training"] | {"output_dir": str(workplace.root / "cached" / "jobs")},
        "evaluation": workplace.settings["evaluation"] | {"controls": []},
        "tracking": {"experiment": "cached"},
    }
    return workplace.config("cached.yaml", settings)


def test_the_student_learns_from_the_cache_and_all_is_reused(
    config: str, workplace: Any, zenml: Callable[..., Any], statuses: Callable[[], dict[str, str]]
) -> None:
    result = zenml("pipeline", "run", PIPELINE, "-c", config, "-s", "local")
    assert result.exit_code == 0, result.output
    assert {"cache_teacher", "distill_student_distilled"} <= set(statuses())
    root = workplace.root / "cached"
    [job] = (root / "jobs").glob("distilled-*/teacher_cache")
    shards = sorted((job / "shards").glob("*.safetensors"))
    [cache] = (root / "teacher_caches").glob("sampling-*")
    assert shards
    assert [path.name for path in shards] == sorted(
        path.name for path in (cache / "shards").glob("*.safetensors")
    )
    assert shards[0].samefile(cache / "shards" / shards[0].name)

    from zenml.client import Client

    run = (
        Client()
        .list_pipeline_runs(pipeline="distillation_pipeline", sort_by="desc:created", size=1, hydrate=True)
        .items[0]
    )
    [artifact] = run.steps["cache_teacher"].outputs["teacher_cache"]
    assert {"bytes_per_token", "dense_bias", "dense_total_variation"} <= set(artifact.run_metadata)

    # A byte is damaged: the step finds it, mends it, and nothing that follows runs again.
    path = Path(cache / "shards" / shards[0].name)
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    result = zenml("pipeline", "run", PIPELINE, "-c", config, "-s", "local")
    assert result.exit_code == 0, result.output
    assert path.read_bytes() == before
    done = {name for name, status in statuses().items() if status == "completed"}
    assert done == {"cache_teacher"}
