"""The comparison: variants x seeds beside their controls, a verdict with intervals, one report.

    zenml pipeline run pipelines.comparison.comparison_pipeline -c configs/compare_objectives.yaml -s local
    python -m pipelines.comparison -c configs/compare_objectives.yaml "comparison.seeds=[0, 1, 2, 3, 4]"

Corpus, probes, aligners, teacher caches, references and controls are made once, whatever the number of
variants. Each student is a step. A comparison that was killed goes on where it stopped.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from distillation.config import (
    AlignmentSettings,
    ComparisonSettings,
    ModelSettings,
    Settings,
    TrainingSettings,
    parse_settings,
)
from distillation.experiment.plan import make_plan
from pipelines.checks import check_comparison
from pipelines.distillation import tokenizer_of
from pipelines.guarded import guarded_pipeline
from pipelines.inputs import corpus_fingerprint, machine_fingerprint, models_fingerprint, tasks_fingerprint
from pipelines.summary import show_comparison
from steps.build_aligner import build_aligner
from steps.cache_teacher import cache_teacher
from steps.compare_variants import compare_variants
from steps.load_corpus import load_corpus
from steps.measure_references import measure_references
from steps.probe_models import probe_models
from steps.search_settings import search_settings
from steps.train_variant import PREFIX, train_variant


@guarded_pipeline(
    before=check_comparison, after=show_comparison, on_failure="tracking.records.recording.close_failed_run"
)
def comparison_pipeline(settings: dict[str, Any]) -> None:
    """Compare many students honestly: variants and seeds, with controls, intervals and a report."""
    checked = parse_settings(settings, ComparisonSettings)
    plan = make_plan(checked)
    files = models_fingerprint(checked.models)
    pair: dict[str, Any] = {
        "teacher": tokenizer_of(checked.models.teacher),
        "student": tokenizer_of(checked.models.student),
    }
    corpus, _, _ = load_corpus(
        corpus=checked.corpus,
        **pair,
        tracking=checked.tracking,
        fingerprint=corpus_fingerprint(checked.corpus) + files,
    )
    tasks = tasks_fingerprint(checked.evaluation, checked.corpus.hub_timeout)
    make = _SharedSteps(corpus, checked, tasks)
    teacher_probe, student_probe = make.probes(checked.models)
    _, audit = make.aligner(checked.models, checked.alignment, checked.training.max_length)
    found = None
    if checked.comparison.search is not None:
        found = search_settings(corpus, checked, files)
    results = []
    for entry in plan.entries():
        aligner = teacher_cache = None
        if entry.learns_from_shared_aligner:
            aligner, teacher_cache = make.targets(entry.settings)
        results.append(
            train_variant(
                corpus=corpus,
                aligner=aligner,
                cache=teacher_cache,
                found=found if entry.uses_found else None,
                entry=entry,
                evaluation=checked.evaluation,
                fingerprint=tasks,
                # Numbered: of the steps that could run, ZenML runs the first by name.
                id=f"{PREFIX}{entry.number:03d} {entry.name}",
            )
        )
    compare_variants(
        results=results,
        references=[make.references(models) for models in plan.teachers],
        corpus=corpus,
        audit=audit,
        teacher_probe=teacher_probe,
        student_probe=student_probe,
        found=found,
        settings=checked,
    )


class _SharedSteps:
    """Steps that several students depend on: each is made when it is first asked for, and once."""

    def __init__(self, corpus: Any, settings: ComparisonSettings, tasks: str) -> None:
        self.corpus, self.settings, self.tasks = corpus, settings, tasks
        self.probes = cache(self._probes)
        self.aligner = cache(self._aligner)
        self.references = cache(self._references)
        self._cache = cache(self._cache_teacher)

    def targets(self, settings: Settings) -> tuple[Any, Any]:
        """Return what a student learns from: the aligner, and the teacher cache where it has one."""
        aligner, _ = self.aligner(settings.models, settings.alignment, settings.training.max_length)
        if settings.cache is None:
            return aligner, None
        # Students of all seeds, and of all learning rates, share a cache.
        kept = {name: getattr(settings, name) for name in ("models", "alignment", "objective", "cache")}
        training = TrainingSettings(max_length=settings.training.max_length)
        return aligner, self._cache(Settings(**kept, training=training))

    def _probes(self, models: ModelSettings) -> tuple[Any, Any]:
        fingerprint = models_fingerprint(models) + machine_fingerprint()
        return probe_models(models, self.settings.tracking, fingerprint)[:2]

    def _aligner(self, models: ModelSettings, alignment: AlignmentSettings, length: int) -> tuple[Any, Any]:
        aligner, audit, _ = build_aligner(
            self.corpus,
            *self.probes(models),
            alignment,
            teacher=tokenizer_of(models.teacher),
            student=tokenizer_of(models.student),
            tracking=self.settings.tracking,
            fingerprint=models_fingerprint(models),
            window_length=length,
        )
        return aligner, audit

    def _references(self, models: ModelSettings) -> Any:
        return measure_references(
            self.corpus, models, self.settings.evaluation, models_fingerprint(models) + self.tasks
        )

    def _cache_teacher(self, settings: Settings) -> Any:
        aligner, _ = self.aligner(settings.models, settings.alignment, settings.training.max_length)
        return cache_teacher(self.corpus, aligner, settings, models_fingerprint(settings.models))


if __name__ == "__main__":
    from pipelines import comparison
    from pipelines.command import run_command

    # By its proper name, not as __main__: ZenML stores where the pipeline and its steps are defined.
    raise SystemExit(run_command(comparison.comparison_pipeline))
