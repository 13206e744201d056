"""How good a student is: bits per byte, agreement with its teacher, samples, speed and size."""

from distillation.evaluation.agreement import Agreement, measure_agreement
from distillation.evaluation.bits_per_byte import BitsPerByte, bits_per_byte
from distillation.evaluation.evaluate import evaluate_models
from distillation.evaluation.groups import TextGroup, document_labels
from distillation.evaluation.reliability import Reliability
from distillation.evaluation.result import (
    MODEL_NAMES,
    Evaluation,
    ModelResult,
    completeness,
    flat_metrics,
    gap_closed,
)
from distillation.evaluation.samples import Sample, continue_prompts
from distillation.evaluation.speed import Speed, measure_speed
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
    "TextGroup",
    "bits_per_byte",
    "completeness",
    "continue_prompts",
    "document_labels",
    "evaluate_models",
    "flat_metrics",
    "gap_closed",
    "measure_agreement",
    "measure_speed",
]
