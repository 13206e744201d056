"""Measures students beside their teacher on held-out text.

The teacher stays in memory, as agreement needs it beside each student; students are loaded one at a time and
freed before the next. Nothing is trained here, and no file is written.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillation.config import BASELINE, EvaluationSettings, ModelReference
from distillation.errors import AlignmentError, ModelError
from distillation.evaluation.agreement import Agreement, measure_agreement
from distillation.evaluation.bits_per_byte import BitsPerByte, bits_per_byte
from distillation.evaluation.groups import document_labels
from distillation.evaluation.loading import (
    as_reference,
    decided,
    directory_of,
    free_memory,
    load_for_evaluation,
)
from distillation.evaluation.result import (
    DISTILLED,
    TEACHER,
    Evaluation,
    ModelResult,
    gap_closed,
    gap_closed_interval,
    model_names,
)
from distillation.evaluation.samples import Sample, continue_prompts
from distillation.evaluation.speed import Speed, measure_speed
from distillation.evaluation.tasks import PreparedTasks, TaskResult, measure_tasks, prepared_tasks
from distillation.evaluation.token_view import (
    Passage,
    PassageReading,
    PassageView,
    choose_passages,
    read_passages,
    view_passages,
)

if TYPE_CHECKING:
    from distillation.models.decision import TeacherDecision

Progress = Callable[[str, int, int], None]
"""Told (what is being measured, steps done, steps in all)."""
VIEWED = (TEACHER, DISTILLED, BASELINE)
"""Models whose bits are kept stretch by stretch."""


def evaluate_models(
    entries: Mapping[str, str | Path | ModelReference],
    teacher: str | Path | ModelReference,
    texts: Sequence[str],
    settings: EvaluationSettings,
    *,
    held_out_fingerprint: str,
    sources: Sequence[str] | None = None,
    device: str = "auto",
    decision: TeacherDecision | None = None,
    show_progress: bool = True,
) -> Evaluation:
    """Measure the students of `entries` and the teacher on the held-out `texts`.

    Args:
        entries: students by name, `untouched`, `distilled`, controls or any other: a directory or a
            reference.
        teacher: the model they learned from.
        texts: held-out documents, which no model has been trained on.
        settings: windows, prompts, lengths.
        held_out_fingerprint: what `CorpusReport` calls it.
        sources: where each text comes from, in few words (`Corpus.test_sources`), to group by.
        device: `auto` or the name of a device, for models that were trained elsewhere.
        decision: of the job that trained the students; it is obeyed.
        show_progress: a progress bar on the terminal.

    Raises:
        ModelError: a model cannot be loaded, or what it says is not finite.
        CorpusError: the texts are empty.
        JobError: this machine cannot do what was decided.
        SettingsError: the window does not fit a model, or a task is unknown.
    """
    chosen = decided(teacher, device, decision)
    with (
        prepared_tasks(texts, settings) as tasks,
        _progress_bar(len(entries) + 1, show_progress, has_tasks=bool(settings.tasks)) as tell,
    ):
        teacher_model, teacher_tokenizer = load_for_evaluation(teacher, "teacher", chosen)
        context = _Context(texts, settings, tasks, teacher_model, teacher_tokenizer, choose_passages(texts))
        results = {TEACHER: _measure(TEACHER, teacher, teacher_model, teacher_tokenizer, context, tell)}
        for name in (name for name in entries if name != TEACHER):
            model, tokenizer = load_for_evaluation(entries[name], "student", chosen)
            results[name] = _measure(name, entries[name], model, tokenizer, context, tell)
            del model
            free_memory()
    passages = view_passages(context.passages, context.readings)
    del context, teacher_model
    free_memory()
    return Evaluation(
        results=with_gap_closed(results),
        held_out_fingerprint=held_out_fingerprint,
        num_held_out_documents=len(texts),
        num_held_out_bytes=sum(len(text.encode("utf-8")) for text in texts),
        device=chosen.device,
        decision=chosen,
        settings=settings,
        document_labels=document_labels(texts, sources),
        passages=passages,
    )


def measure_student(
    name: str,
    student: str | Path | ModelReference,
    teacher: str | Path | ModelReference,
    texts: Sequence[str],
    settings: EvaluationSettings,
    *,
    device: str = "auto",
    decision: TeacherDecision | None = None,
    show_progress: bool = True,
) -> ModelResult:
    """Measure one student as `evaluate_models` does; the teacher is only there to agree with.

    Raises:
        JobError: this machine cannot do what was decided.
        ModelError: a model cannot be loaded, or what it says is not finite.
        CorpusError: the texts are empty.
        SettingsError: the window does not fit a model.
    """
    chosen = decided(teacher, device, decision)
    with (
        prepared_tasks(texts, settings) as tasks,
        _progress_bar(1, show_progress, has_tasks=bool(settings.tasks)) as tell,
    ):
        context = _Context(
            texts, settings, tasks, *load_for_evaluation(teacher, "teacher", chosen), passages=()
        )
        model, tokenizer = load_for_evaluation(student, "student", chosen)
        result = _measure(name, student, model, tokenizer, context, tell)
    del context, model
    free_memory()
    return result


def read_side_by_side(
    students: Mapping[str, str | Path | ModelReference],
    teacher: str | Path | ModelReference,
    texts: Sequence[str],
    settings: EvaluationSettings,
    *,
    device: str = "auto",
    decision: TeacherDecision | None = None,
) -> tuple[PassageView, ...]:
    """Return the passages that `evaluate_models` keeps, of students that were measured one by one.

    Args:
        students: `distilled` and the text-only control; others are not viewed.
        teacher: the model they learned from.
        texts: held-out documents.
        settings: windows.
        device: `auto` or the name of a device, for models that were trained elsewhere.
        decision: of the job that trained the students; it is obeyed.

    Raises:
        ModelError: a model cannot be loaded.
    """
    chosen = decided(teacher, device, decision)
    passages = choose_passages(texts)
    readings = {}
    for name, source in {TEACHER: teacher, **students}.items():
        if name in VIEWED:
            role: Literal["teacher", "student"] = "teacher" if name == TEACHER else "student"
            readings[name] = _readings(name, *load_for_evaluation(source, role, chosen), passages, settings)
    return view_passages(passages, readings)


# ------------------------------------------------------------------------------------- one model


@dataclass(frozen=True)
class _Context:
    """What every model is measured with."""

    texts: Sequence[str]
    settings: EvaluationSettings
    tasks: PreparedTasks
    teacher: Any
    teacher_tokenizer: Any
    passages: tuple[Passage, ...]
    readings: dict[str, list[PassageReading | None]] = field(default_factory=dict)
    """Filled by each model of `VIEWED`."""
    teacher_states: dict[bytes, Any] = field(default_factory=dict)
    """Filled by the first student's agreement and used by the others'."""


def _measure(
    name: str, source: Any, model: Any, tokenizer: Any, context: _Context, tell: Progress
) -> ModelResult:
    settings, reference = context.settings, as_reference(source)
    measured = bits_per_byte(
        model,
        tokenizer,
        context.texts,
        max_length=settings.max_length,
        stride=settings.stride,
        batch_size=settings.batch_size,
        on_windows=lambda done, total: tell(f"{name}: bits per byte", done, total),
    )
    _check_finite(name, reference, "bits per byte", measured.bits_per_byte)
    _check_finite(name, reference, "calibration error", measured.expected_calibration_error)
    if name in VIEWED:
        context.readings[name] = _readings(name, model, tokenizer, context.passages, settings)
    agreement = None if name == TEACHER else _agreement(name, model, tokenizer, context, tell)
    if agreement is not None:
        _check_finite(name, reference, "divergence from the teacher", agreement.kl_divergence)
    tasks = measure_tasks(
        context.tasks,
        model,
        tokenizer,
        tokens_per_batch=settings.batch_size * settings.max_length,
        on_progress=lambda done, total: tell(f"{name}: tasks", done, total),
    )
    tell(f"{name}: samples and speed", 0, 2)
    samples = continue_prompts(model, tokenizer, settings.prompts, num_new_tokens=settings.num_new_tokens)
    tell(f"{name}: samples and speed", 1, 2)
    speed = measure_speed(model, directory_of(reference, "teacher" if name == TEACHER else "student"))
    tell(f"{name}: samples and speed", 2, 2)
    dtype = str(model.dtype).removeprefix("torch.")
    return _result(name, reference.path, dtype, measured, agreement, samples, speed, tasks)


def _check_finite(name: str, reference: ModelReference, measure: str, value: float | None) -> None:
    """Refuse a figure that is no number: recorded or drawn, it would be taken for one.

    Raises:
        ModelError: `value` is infinite or NaN.
    """
    if value is None or math.isfinite(value):
        return
    setting = "models.teacher" if name == TEACHER else "models.student"
    remedy = f"set {setting}.dtype to float32 or name another {setting}.path"
    if name not in (TEACHER, "untouched"):
        remedy = f"lower training.learning_rate, or {remedy}"
    raise ModelError(f"{name} ({reference.path}): its {measure} on held-out text is {value}; {remedy}")


def _result(
    name: str,
    source: str,
    dtype: str,
    measured: BitsPerByte,
    agreement: Agreement | None,
    samples: Sequence[Sample],
    speed: Speed,
    tasks: Sequence[TaskResult],
) -> ModelResult:
    return ModelResult(
        name=name,
        source=source,
        dtype=dtype,
        bits_per_byte=measured.bits_per_byte,
        total_bits=measured.total_bits,
        num_bytes=measured.num_bytes,
        per_document_bits=measured.per_document_bits,
        per_document_bytes=measured.per_document_bytes,
        num_tokens=measured.num_tokens,
        num_unscored_bytes=measured.num_unscored_bytes,
        num_unknown_tokens=measured.num_unknown_tokens,
        accuracy=measured.accuracy,
        expected_calibration_error=measured.expected_calibration_error,
        gap_closed=None,
        gap_closed_interval=None,
        agreement=agreement,
        samples=tuple(samples),
        speed=speed,
        tasks=tuple(tasks),
        reliability=measured.reliability,
    )


def _readings(
    name: str, model: Any, tokenizer: Any, passages: tuple[Passage, ...], settings: EvaluationSettings
) -> list[PassageReading | None]:
    """Read the passages; a model whose tokens have no known bytes is not shown with them."""
    try:
        return read_passages(
            model, tokenizer, passages, max_length=settings.max_length, stride=settings.stride
        )
    except AlignmentError as error:
        logging.getLogger(__name__).warning("no view of %s token by token: %s", name, error)
        return [None] * len(passages)


def _agreement(name: str, model: Any, tokenizer: Any, context: _Context, tell: Progress) -> Agreement | None:
    """Compare with the teacher; what cannot be aligned has no agreement, and `completeness` says so."""
    try:
        return measure_agreement(
            context.teacher,
            context.teacher_tokenizer,
            model,
            tokenizer,
            context.texts,
            max_length=context.settings.max_length,
            batch_size=context.settings.batch_size,
            teacher_states=context.teacher_states,
            on_windows=lambda done, total: tell(f"{name}: agreement", done, total),
        )
    except AlignmentError as error:
        logging.getLogger(__name__).warning("no agreement of %s with the teacher: %s", name, error)
        return None


def with_gap_closed(results: dict[str, ModelResult]) -> dict[str, ModelResult]:
    """Return the results in the order in which they are shown, each with its share of the gap."""
    usual = [name for name in model_names() if name in results]
    order = [*usual, *(name for name in results if name not in usual)]
    control, teacher = results.get(BASELINE), results[TEACHER]
    return {
        name: results[name].model_copy(
            update={
                "gap_closed": gap_closed(results[name], control, teacher),
                "gap_closed_interval": gap_closed_interval(results[name], control, teacher),
            }
        )
        for name in order
    }


@contextmanager
def _progress_bar(num_models: int, is_shown: bool, *, has_tasks: bool) -> Iterator[Progress]:
    """Show one bar over all models; it vanishes at the end."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn())
    phases: dict[str, float] = {}
    with Bar(*columns, transient=True, disable=not is_shown) as bar:
        # Bits per byte, agreement (not of the teacher), tasks, samples and speed.
        task = bar.add_task("loading", total=(3 + has_tasks) * num_models - 1)

        def tell(description: str, done: int, total: int) -> None:
            phases[description] = done / max(total, 1)
            bar.update(task, description=description, completed=sum(phases.values()))

        yield tell
