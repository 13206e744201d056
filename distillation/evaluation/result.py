"""What an evaluation found: every measure of every model of one comparison, frozen.

The headline is the share of the gap that distillation closes:

    gap closed(X) = (bpb(text alone) - bpb(X)) / (bpb(text alone) - bpb(teacher))

with bpb the bits per byte on the same held-out documents. 0 is what training on text alone gives with the
same start, tokens and steps; 1 is the teacher itself; below 0 the teacher's help did harm.

Its 95 % interval comes from drawing the held-out documents anew (bootstrap, all models on the same draw). It
speaks of the choice of documents only: how much another seed would change is for repeated runs to say.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from distillation.config import BASELINE, CONTROLS, EMBEDDED_TASKS, EvaluationSettings
from distillation.evaluation.agreement import Agreement
from distillation.evaluation.groups import TextGroup, group_documents
from distillation.evaluation.reliability import Reliability
from distillation.evaluation.samples import Sample
from distillation.evaluation.speed import Speed
from distillation.evaluation.tasks import TaskResult
from distillation.evaluation.token_view import PassageView
from distillation.models.decision import Decision, TeacherDecision

TEACHER = "teacher"
DISTILLED = "distilled"

NUM_DRAWS = 1000
INTERVAL = (0.025, 0.975)
MIN_DOCUMENTS = 5
"""Fewer documents say nothing about the spread between documents."""


class ModelResult(BaseModel):
    """Every measure of one model."""

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    """Directory or hub repository of the model, as it was named."""
    dtype: str
    """Number format of the weights while they were measured."""
    bits_per_byte: FiniteFloat
    """On the held-out documents; lower is better."""
    total_bits: FiniteFloat
    num_bytes: int
    per_document_bits: tuple[float, ...]
    per_document_bytes: tuple[int, ...]
    num_tokens: int
    """Tokens of the held-out documents under the model's own tokenizer."""
    num_unscored_bytes: int
    num_unknown_tokens: int
    accuracy: float
    """Share of held-out tokens that were the most likely one; not comparable across tokenizers."""
    expected_calibration_error: FiniteFloat
    gap_closed: float | None
    """Share of the gap between the text-only control and the teacher; None where no positive gap is known."""
    gap_closed_interval: tuple[float, float] | None
    """95 % interval of `gap_closed` over draws of the held-out documents."""
    agreement: Agreement | None
    """With the teacher; None for the teacher itself, or where the two cannot be aligned."""
    samples: tuple[Sample, ...]
    speed: Speed
    tasks: tuple[TaskResult, ...] = ()
    """Measures of the tasks of `evaluation.tasks`, in their order."""
    reliability: Reliability | None = None
    """Confidence and accuracy, bin by bin; None in results from before it was kept."""

    @property
    def bytes_per_second(self) -> float:
        """UTF-8 bytes of held-out text read a second: comparable across tokenizers."""
        return self.speed.forward_tokens_per_second * self.num_bytes / self.num_tokens


class Evaluation(BaseModel):
    """All models of one comparison on one held-out set."""

    model_config = ConfigDict(frozen=True)

    results: dict[str, ModelResult]
    """By name, in the order of `model_names`, other names after them."""
    held_out_fingerprint: str
    """Names the held-out documents: only evaluations with the same one may be compared."""
    num_held_out_documents: int
    num_held_out_bytes: int
    device: str
    settings: EvaluationSettings
    decision: Decision | TeacherDecision | None = None
    """How the models were run; None in results from before it was kept."""
    document_labels: dict[str, tuple[str, ...]] = {}
    """Ways to group the documents (`kind`, `script`, `source`), each with one label a document."""
    passages: tuple[PassageView, ...] = ()
    """Some held-out text, and what every stretch of it costs teacher and students."""

    @property
    def machine(self) -> str:
        """What the models ran on, and in which formats."""
        return self.device if self.decision is None else self.decision.summary

    @property
    def groups(self) -> dict[str, tuple[TextGroup, ...]]:
        """Bits and bytes of every model by group of documents, for each way to group."""
        return {way: group_documents(labels, self.results) for way, labels in self.document_labels.items()}

    @property
    def verdict(self) -> Literal["better", "worse", "equal", "unknown"]:
        """What became of the distilled student beside the one trained on text alone.

        `equal` means that the 95 % interval of their difference, over draws of the documents, holds 0.
        """
        distilled, control = self.results.get(DISTILLED), self.results.get(BASELINE)
        if distilled is None or control is None:
            return "unknown"
        difference = _draws(control) - _draws(distilled)
        lowest, highest = np.quantile(difference, INTERVAL)
        if lowest <= 0.0 <= highest:
            return "equal"
        return "better" if lowest > 0 else "worse"


def model_names() -> tuple[str, ...]:
    """Return the names of a comparison, in the order in which they are shown."""
    return ("untouched", *CONTROLS, DISTILLED, TEACHER)


def gap_closed(result: ModelResult, control: ModelResult | None, teacher: ModelResult) -> float | None:
    """Return the share of the gap closed, or None where no positive gap between the two others is known."""
    if control is None or control.bits_per_byte <= teacher.bits_per_byte:
        return None
    return (control.bits_per_byte - result.bits_per_byte) / (control.bits_per_byte - teacher.bits_per_byte)


def gap_closed_interval(
    result: ModelResult, control: ModelResult | None, teacher: ModelResult
) -> tuple[float, float] | None:
    """Return the 95 % interval of the share; None for too few documents, or if a draw has no gap."""
    if control is None or len(control.per_document_bits) < MIN_DOCUMENTS:
        return None
    gap = _draws(control) - _draws(teacher)
    if gap.min() <= 0:
        return None
    lowest, highest = np.quantile((_draws(control) - _draws(result)) / gap, INTERVAL)
    return float(lowest), float(highest)


def advantage(evaluation: Evaluation) -> dict[str, float]:
    """Return by how much the distilled student saves bits over its text-only control, relative.

    `distilled.advantage` is (bpb(text alone) - bpb(distilled)) / bpb(text alone); `distilled.advantage_low`
    the lower end of its 95 % interval over draws of the documents. Empty without the control, and without the
    second for fewer than `MIN_DOCUMENTS` documents.
    """
    distilled, control = evaluation.results.get(DISTILLED), evaluation.results.get(BASELINE)
    if distilled is None or control is None or control.bits_per_byte <= 0:
        return {}
    found = {f"{DISTILLED}.advantage": 1 - distilled.bits_per_byte / control.bits_per_byte}
    if len(control.per_document_bits) >= MIN_DOCUMENTS:
        savings = 1 - _draws(distilled) / _draws(control)
        found[f"{DISTILLED}.advantage_low"] = float(np.quantile(savings, INTERVAL[0]))
    return found


def _draws(result: ModelResult) -> np.ndarray:
    """Return the bits per byte on `NUM_DRAWS` draws of the documents, the same draws for every model."""
    bits, num_bytes = np.asarray(result.per_document_bits), np.asarray(result.per_document_bytes)
    random = np.random.default_rng(0)
    drawn = random.integers(len(bits), size=(NUM_DRAWS, len(bits)))
    return bits[drawn].sum(1) / np.maximum(num_bytes[drawn].sum(1), 1)


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures as `NAME.measure`, for a tracking server; what is unknown is left out."""
    metrics = {
        f"{name}.{measure}": value
        for name, result in evaluation.results.items()
        for measure, value in model_metrics(result).items()
    }
    return metrics | _group_metrics(evaluation) | advantage(evaluation)


def model_metrics(result: ModelResult) -> dict[str, float]:
    """Return the figures of one model by measure; what is unknown is left out."""
    agreement = result.agreement
    values: dict[str, float | int | None] = {
        "bits_per_byte": result.bits_per_byte,
        "gap_closed": result.gap_closed,
        "accuracy": result.accuracy,
        "expected_calibration_error": result.expected_calibration_error,
        "top1_agreement": agreement.top1_agreement if agreement else None,
        "kl_divergence": agreement.kl_divergence if agreement else None,
        "bytes_per_second": result.bytes_per_second,
        "forward_tokens_per_second": result.speed.forward_tokens_per_second,
        "generated_tokens_per_second": result.speed.generated_tokens_per_second,
        "num_parameters": result.speed.num_parameters,
        "num_active_parameters": result.speed.num_active_parameters,
        "size_on_disk": result.speed.size_on_disk,
        "first_token_ms": result.speed.first_token_ms,
        "peak_memory_bytes": result.speed.peak_memory_bytes,
    }
    values |= _task_metrics(result)
    return {measure: float(value) for measure, value in values.items() if value is not None}


def _task_metrics(result: ModelResult) -> dict[str, float | int | None]:
    """Return `task.TASK.METRIC`, in the letters that a tracking server takes."""
    return {
        re.sub(r"[^\w./ :-]", "_", f"task.{task.name}.{task.metric}"): task.value
        for task in result.tasks
        if task.value is not None and math.isfinite(task.value)
    }


def skipped_tasks(evaluation: Evaluation) -> list[str]:
    """Return each task that some model has no figure of and why, one phrase each."""
    return list(_skipped(evaluation))


def _skipped(evaluation: Evaluation) -> dict[str, str]:
    """Return the names of the tasks by phrase: which task, why, and of whom if not of all models."""
    models: dict[tuple[str, str], list[str]] = {}
    for name, result in evaluation.results.items():
        for task in result.tasks:
            if task.reason is not None:
                models.setdefault((task.name, task.reason), []).append(name)
    return {
        f"task {task}: {reason}"
        + ("" if len(names) == len(evaluation.results) else f" (of {', '.join(names)})"): task
        for (task, reason), names in models.items()
    }


def _missing_tasks(evaluation: Evaluation) -> list[str]:
    """Return the phrases of `_skipped`, less the embedded tasks that nobody has.

    Documents that are too few for one say nothing against any model.
    """
    had = {task.name for result in evaluation.results.values() for task in result.tasks if not task.reason}
    return [
        phrase for phrase, task in _skipped(evaluation).items() if task in had or task not in EMBEDDED_TASKS
    ]


def _group_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return `NAME.bits_per_byte_WAY.LABEL` by kind and script, of groups that are large enough."""
    groups = evaluation.groups
    return {
        f"{name}.bits_per_byte_{way}.{group.label.replace(' ', '_')}": value
        for way in ("kind", "script")
        for group in groups.get(way, ())
        if not group.is_small
        for name, value in group.bits_per_byte.items()
    }


def completeness(evaluation: Evaluation) -> list[str]:
    """Return what is missing for a fair comparison, one phrase each; empty when nothing is."""
    missing = []
    needed = ("untouched", BASELINE, *evaluation.settings.controls, DISTILLED, TEACHER)
    for name in dict.fromkeys(needed):
        if name not in evaluation.results:
            missing.append(f"model {name} was not evaluated")
    for name, result in evaluation.results.items():
        if not (math.isfinite(result.bits_per_byte) and result.bits_per_byte > 0):
            missing.append(f"bits per byte of {name} is {result.bits_per_byte}")
        if name != TEACHER and (result.agreement is None or not result.agreement.num_positions):
            missing.append(f"agreement of {name} with the teacher")
        if evaluation.settings.num_new_tokens and len(result.samples) < len(evaluation.settings.prompts):
            missing.append(f"samples of {name}")
    missing += _missing_tasks(evaluation)
    distilled = evaluation.results.get(DISTILLED)
    if distilled is not None and distilled.gap_closed is None:
        missing.append("the gap closed: the teacher is not better than the student trained on text alone")
    if not evaluation.held_out_fingerprint:
        missing.append("the fingerprint of the held-out documents")
    return missing
