"""What the last step of a comparison writes into MLflow: the table, the figures, the chosen student."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.lineage import dataset_records
from tracking.names import final_name, shown_name
from tracking.records.comparison_runs import student_run_spec, variant_run_spec
from tracking.records.final_record import outcome_tags
from tracking.records.recording import pipeline_run_spec
from tracking.records.tags import comparable_tags
from tracking.registry import MODEL_URI_TAG
from tracking.runs import Recorder, RunSpec
from tracking.server import resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from distillation.config import Settings
    from distillation.corpus.corpus import Corpus
    from distillation.evaluation.result import Evaluation
    from distillation.experiment.plan import Plan
    from distillation.experiment.result import Comparison, VariantSummary
    from distillation.report.histories import History

CURVES = ("held_out/bits_per_byte", "cross_entropy")
"""Metrics of the training whose mean over seeds a variant's run shows."""


@dataclass(frozen=True)
class Outcome:
    """All that a comparison has to show."""

    comparison: Comparison
    plan: Plan
    evaluation: Evaluation
    """The chosen student beside the controls of its seed."""
    trained_with: Settings
    """All settings of the chosen student."""
    histories: Mapping[str, Sequence[History]]
    """Training logs by variant, seed by seed."""
    pages: Mapping[str, str]
    """Texts by their path."""
    pictures: Mapping[str, bytes]
    """Figures by their path."""


def record_comparison(outcome: Outcome, corpus: Corpus) -> None:
    """Record figures, tables, pages, tags and the chosen student, and end the runs.

    The run of the comparison ends last: one that is FINISHED has everything, which promotion relies on.

    Raises:
        TrackingError: the server fails. The students are kept, and the same command records them later.
    """
    from distillation.experiment.chosen import chosen_student
    from distillation.report.comparison_words import details, sentence

    tracking = outcome.plan.base.tracking
    recorder = Recorder(resolve_tracking_uri(tracking.uri), tracking.experiment)
    spec = pipeline_run_spec()
    run_id = recorder.open(spec)
    time_ms = int(time.time() * 1000)
    _record_below(recorder, spec, outcome, corpus, time_ms)
    recorder.log_metrics(run_id, _figures_of(outcome), time_ms=time_ms)
    recorder.log_datasets(run_id, dataset_records(corpus.report, outcome.plan.base.corpus.sources))
    for path, text in outcome.pages.items():
        recorder.log_text(run_id, text, path)
    for path, content in outcome.pictures.items():
        recorder.log_bytes(run_id, content, path)
    recorder.log_table(run_id, comparison_columns(outcome.comparison.variants), "variants.json")
    recorder.note(
        run_id,
        f"**{sentence(outcome.comparison)}** {' '.join(details(outcome.comparison))}\n\nUnder *Artifacts*: "
        "`report.html` is the whole report, `variants.json` its table, `comparison/` and `figures/` its "
        "pictures. Below this run stands one a variant, and below that one a seed, with the training curves.",
    )
    job_dir = Path(chosen_student(outcome.comparison).job_dir)
    _record_student(recorder, run_id, job_dir, outcome, corpus, spec.name)
    recorder.close(run_id)


def _record_below(recorder: Recorder, spec: RunSpec, outcome: Outcome, corpus: Corpus, time_ms: int) -> None:
    """Write every student's final figures into its run, the means into its variant's, and end both."""
    from distillation.evaluation.result import model_metrics

    means = {one.name: _means(one) for one in outcome.comparison.variants}
    entries = {(one.variant, one.seed): one for one in outcome.plan.entries()}
    for student in outcome.comparison.students:
        entry = entries[student.variant, student.seed]
        if student.result is not None:
            own = student_run_spec(entry, spec, corpus.report, Path(student.job_dir))
            figures = {final_name(name): value for name, value in model_metrics(student.result).items()}
            recorder.log_metrics(recorder.open(own), figures, time_ms=time_ms)
        if entry.seed == outcome.plan.seeds[-1]:
            variant_id = recorder.open(variant_run_spec(entry, spec))
            recorder.log_metrics(variant_id, means[entry.variant], time_ms=time_ms)
            logs = outcome.histories.get(entry.variant, ())
            for metric in CURVES:
                recorder.log_entries(variant_id, mean_curve(logs, metric))
            recorder.close(variant_id, "FINISHED" if means[entry.variant] else "FAILED")


def mean_curve(histories: Sequence[History], metric: str) -> list[Metric]:
    """Return the mean over seeds of a metric of the training, at the steps that all seeds have.

    Its x-axis is the mean of the tokens seen; windows of a step hold a few more with one seed than another.
    """
    from mlflow.entities import Metric

    found: dict[int, list[tuple[float, float, float]]] = {}
    for history in histories:
        for line in history:
            if math.isfinite(line["metrics"].get(metric, math.nan)):
                point = (line["tokens"], line["metrics"][metric], line["time"])
                found.setdefault(line["step"], []).append(point)
    curve = []
    for points in (found[step] for step in sorted(found)):
        if len(points) == len(histories):
            tokens, value, seconds = (sum(column) / len(points) for column in zip(*points, strict=True))
            curve.append(Metric(shown_name(metric), value, int(1000 * seconds), round(tokens)))
    return curve


def _means(one: VariantSummary) -> dict[str, float]:
    """Return the means of a variant over its seeds, with the intervals of what decides."""
    if one.bits_per_byte is None:
        return {}
    figures = {final_name("bits_per_byte"): one.bits_per_byte.mean}
    for name in ("saving", "gap_closed"):
        value = getattr(one, name)
        if value is not None:
            ends = {"": value.mean, "_low": value.low, "_high": value.high}
            figures |= {final_name(name + end): figure for end, figure in ends.items() if figure is not None}
    return figures | {final_name(name): value.mean for name, value in one.measures.items()}


def _figures_of(outcome: Outcome) -> dict[str, float]:
    """Return the chosen student's figures, and what its variant saves over the control."""
    from distillation.evaluation.result import flat_metrics

    metrics = flat_metrics(outcome.evaluation)
    saving = outcome.comparison.variant(outcome.comparison.chosen or "").saving
    if saving is not None and saving.low is not None:
        metrics |= {"distilled.advantage": saving.mean, "distilled.advantage_low": saving.low}
    return metrics


def _record_student(
    recorder: Recorder, run_id: str, job_dir: Path, outcome: Outcome, corpus: Corpus, name: str
) -> None:
    """Log the chosen student, unless an earlier run of the same comparison has logged this very one."""
    from distillation.report.comparison_words import verdict
    from tracking.students import log_student

    known = recorder.tags(run_id)
    uri = known.get(MODEL_URI_TAG, "")
    if not uri or known.get("job") != job_dir.name:
        metadata = {"variant": "distilled", "held_out": outcome.evaluation.held_out_fingerprint, "run": name}
        uri = log_student(recorder, run_id, job_dir / "student", metadata=metadata)
    recorder.set_tags(
        run_id,
        {
            **outcome_tags(outcome.evaluation, corpus, outcome.trained_with.models),
            **comparable_tags(outcome.trained_with),
            "variant": outcome.comparison.chosen or "",
            "job": job_dir.name,
            "verdict": verdict(outcome.comparison),
            MODEL_URI_TAG: uri,
        },
    )


def comparison_columns(variants: Sequence[VariantSummary]) -> dict[str, list[Any]]:
    """Return the table of a comparison by column, for MLflow's own view of tables."""
    from distillation.report.comparison_words import against_control

    def column(name: str, end: str) -> list[Any]:
        values = [getattr(one, name) for one in variants]
        found = [None if value is None else getattr(value, end) for value in values]
        return [None if value is None else round(value, 5) for value in found]

    return {
        "variant": [one.name for one in variants],
        "description": [one.description for one in variants],
        "seeds": [len(one.seeds) for one in variants],
        "bits_per_byte": column("bits_per_byte", "mean"),
        "saving": column("saving", "mean"),
        "saving_low": column("saving", "low"),
        "saving_high": column("saving", "high"),
        "gap_closed": column("gap_closed", "mean"),
        "gap_closed_low": column("gap_closed", "low"),
        "gap_closed_high": column("gap_closed", "high"),
        "beside_text_alone": [against_control(one) for one in variants],
    }
