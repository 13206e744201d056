"""The main job: corpus, probes, aligner, the distilled student beside its controls, evaluation, report.

With `cache` the teacher runs once, in a step of its own, and the distilled student learns from what it said.

    zenml pipeline run pipelines.distillation.distillation_pipeline -c configs/quickstart.yaml -s local
    python -m pipelines.distillation -c configs/quickstart.yaml training.batch_size=4

Each step is given the settings that it uses and no others, which is what makes the cache exact: another
objective reuses the corpus, the probes, the aligner and the text-only control.
"""

from __future__ import annotations

from typing import Any

from distillation.config import ModelReference, Settings, parse_settings
from distillation.experiment.plan import settings_for
from pipelines.checks import check_distillation
from pipelines.guarded import guarded_pipeline
from pipelines.inputs import corpus_fingerprint, machine_fingerprint, models_fingerprint, tasks_fingerprint
from pipelines.summary import show_distillation
from steps.build_aligner import build_aligner
from steps.cache_teacher import cache_teacher
from steps.distill_student import distill_student
from steps.evaluate_student import evaluate_student
from steps.load_corpus import load_corpus
from steps.probe_models import probe_models


@guarded_pipeline(
    before=check_distillation,
    after=show_distillation,
    on_failure="tracking.records.recording.close_failed_run",
)
def distillation_pipeline(settings: dict[str, Any]) -> None:
    """Distil a teacher into a student, with controls, evaluation and report."""
    checked: Settings = parse_settings(settings)
    models, tracking = checked.models, checked.tracking
    files = models_fingerprint(models)
    pair: dict[str, Any] = {"teacher": tokenizer_of(models.teacher), "student": tokenizer_of(models.student)}

    corpus, _, _ = load_corpus(
        corpus=checked.corpus,
        **pair,
        tracking=tracking,
        fingerprint=corpus_fingerprint(checked.corpus) + files,
    )
    teacher_probe, student_probe, _ = probe_models(models, tracking, files + machine_fingerprint())
    aligner, audit, _ = build_aligner(
        corpus,
        teacher_probe,
        student_probe,
        checked.alignment,
        **pair,
        tracking=tracking,
        fingerprint=files,
        window_length=checked.training.max_length,
    )
    cache = None
    if checked.cache is not None:
        cache = cache_teacher(corpus, aligner, settings_for("distilled", checked), files)
    students = [
        distill_student(
            corpus=corpus,
            aligner=aligner if variant == "distilled" else None,
            cache=cache if variant == "distilled" else None,
            settings=settings_for(variant, checked),
            variant=variant,
            fingerprint=files,
            id=f"distill_student_{variant}",
        )
        for variant in ("distilled", *checked.evaluation.controls)
    ]
    evaluate_student(
        students=students,
        corpus=corpus,
        audit=audit,
        teacher_probe=teacher_probe,
        student_probe=student_probe,
        settings=checked,
        fingerprint=files + tasks_fingerprint(checked.evaluation, checked.corpus.hub_timeout),
    )


def tokenizer_of(reference: ModelReference) -> ModelReference:
    """Return the reference without what a tokenizer does not depend on."""
    return reference.model_copy(update={"dtype": "auto", "attention": "auto"})


if __name__ == "__main__":
    from pipelines import distillation
    from pipelines.command import run_command

    # By its proper name, not as __main__: ZenML stores where the pipeline and its steps are defined.
    raise SystemExit(run_command(distillation.distillation_pipeline))
