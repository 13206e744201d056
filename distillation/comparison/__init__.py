"""Many students beside each other: what is trained, how they are compared, what a search finds."""

from distillation.comparison.plan import Entry, Plan, make_plan, settings_for
from distillation.comparison.result import Comparison, StudentResult, VariantSummary
from distillation.comparison.statistics import Estimate, estimate
from distillation.comparison.summarise import summarise

__all__ = [
    "Comparison",
    "Entry",
    "Estimate",
    "Plan",
    "StudentResult",
    "VariantSummary",
    "estimate",
    "make_plan",
    "settings_for",
    "summarise",
]
