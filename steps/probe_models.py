"""Step `probe_models`: what the two models and this machine can do."""

from __future__ import annotations

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from distillation.config import ModelSettings, TrackingSettings
from distillation.models.inspect.probe import ModelProbe
from steps.caching import PROBING_CACHE
from tracking.records.recording import record_pages


@step(cache_policy=PROBING_CACHE)
def probe_models(
    models: ModelSettings, tracking: TrackingSettings, fingerprint: str
) -> tuple[
    Annotated[ModelProbe, "teacher_probe"],
    Annotated[ModelProbe, "student_probe"],
    Annotated[HTMLString, "probes_page"],
]:
    """Probe both models; `fingerprint` stands for their files and for this machine."""
    from rich.console import Console

    from distillation.models.inspect.probe import probe_model, probe_page, probe_table

    teacher = probe_model(models.teacher, "teacher", device=models.device)
    student = probe_model(models.student, "student", device=models.device)
    Console().print(probe_table([teacher, student]))
    page = probe_page([teacher, student])
    record_pages(
        tracking,
        {
            "probes/probes.html": page,
            "probes/teacher.json": teacher.model_dump_json(indent=2),
            "probes/student.json": student.model_dump_json(indent=2),
        },
        {"device": student.device.device},
    )
    return teacher, student, HTMLString(page)
