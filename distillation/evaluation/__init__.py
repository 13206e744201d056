"""How good a student is: bits per byte, agreement with its teacher, samples, speed and size."""

from distillation.evaluation.agreement import Agreement, measure_agreement
from distillation.evaluation.bits_per_byte import BitsPerByte, bits_per_byte
from distillation.evaluation.evaluate import evaluate_models, measure_student, read_side_by_side
from distillation.evaluation.groups import TextGroup, document_labels
from distillation.evaluation.reliability import Reliability
from distillation.evaluation.result import (
    MODEL_NAMES,
    Evaluation,
    ModelResult,
    completeness,
    flat_metrics,
    gap_closed,
    model_metrics,
    skipped_tasks,
)
from distillation.evaluation.samples import Sample, continue_prompts
from distillation.evaluation.speed import Speed, measure_speed
from distillation.evaluation.task_folder import check_tasks
from distillation.evaluation.tasks import TaskResult, measure_tasks, prepared_tasks
from distillation.evaluation.token_view import PassageView

__all__ = [
    "MODEL_NAMES",
    "Agreement",
    "BitsPerByte",
    "Evaluation",
    "ModelResult",
    "PassageView",
    "Reliability",
    "Sample",
    "Speed",
    "TaskResult",
    "TextGroup",
    "bits_per_byte",
    "check_tasks",
    "completeness",
    "continue_prompts",
    "document_labels",
    "evaluate_models",
    "flat_metrics",
    "gap_closed",
    "measure_agreement",
    "measure_speed",
    "measure_student",
    "measure_tasks",
    "model_metrics",
    "prepared_tasks",
    "read_side_by_side",
    "skipped_tasks",
]
