"""How good a student is: bits per byte, agreement with its teacher, samples, speed and size."""

from distillation.evaluation.agreement import Agreement, measure_agreement
from distillation.evaluation.bits_per_byte import BitsPerByte, bits_per_byte
from distillation.evaluation.evaluate import evaluate_models, measure_student
from distillation.evaluation.result import (
    MODEL_NAMES,
    Evaluation,
    ModelResult,
    completeness,
    flat_metrics,
    gap_closed,
    model_metrics,
)
from distillation.evaluation.samples import Sample, continue_prompts
from distillation.evaluation.speed import Speed, measure_speed

__all__ = [
    "MODEL_NAMES",
    "Agreement",
    "BitsPerByte",
    "Evaluation",
    "ModelResult",
    "Sample",
    "Speed",
    "bits_per_byte",
    "completeness",
    "continue_prompts",
    "evaluate_models",
    "flat_metrics",
    "gap_closed",
    "measure_agreement",
    "measure_speed",
    "measure_student",
    "model_metrics",
]
