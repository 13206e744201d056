"""When a step's cached result may be used again.

ZenML keys its cache by the step's own source, its parameters and its inputs; an edited library function goes
unnoticed. Each policy here adds a digest of the parts of the core that the step calls and of the versions of
the libraries that shape results. Parts that a step does not call are left out: an edited report does not
train the students again.
"""

from __future__ import annotations

from zenml.config.cache_policy import CachePolicy

from distillation.comparison.student import EVALUATION_SOURCES
from distillation.fingerprint import digest_of_sources
from distillation.training.job import TRAINING_SOURCES

_BASE = ("distillation.config", "distillation.models", "distillation.fingerprint")


def corpus_code() -> str:
    """Return the digest of what `load_corpus` calls."""
    return digest_of_sources(*_BASE, "distillation.corpus", "steps.load_corpus")


def probing_code() -> str:
    """Return the digest of what `probe_models` calls."""
    return digest_of_sources(*_BASE, "distillation.probing", "steps.probe_models")


def alignment_code() -> str:
    """Return the digest of what `build_aligner` calls."""
    return digest_of_sources(*_BASE, "distillation.alignment", "distillation.report", "steps.build_aligner")


def training_code() -> str:
    """Return the digest of what `distill_student` calls."""
    return digest_of_sources(
        *_BASE, *TRAINING_SOURCES, "distillation.comparison.student", "steps.distill_student"
    )


def evaluation_code() -> str:
    """Return the digest of what `evaluate_student` calls."""
    parts = ("distillation.report", "tracking", "steps.evaluate_student")
    return digest_of_sources(*_BASE, *EVALUATION_SOURCES, *parts)


# By name, not as objects: ZenML would look an object's source up while this module is being imported.
CORPUS_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.corpus_code"})
PROBING_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.probing_code"})
ALIGNMENT_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.alignment_code"})
TRAINING_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.training_code"})
EVALUATION_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.evaluation_code"})
