"""When a step's cached result may be used again.

ZenML keys its cache by the step's own source, its parameters and its inputs; an edited library function goes
unnoticed. Each policy here adds the digest of all code that the step runs through, its record in MLflow
included, and of the versions of the libraries that shape results. A step that runs again because of an edit
that shapes no result is soon done: finished jobs, aligners and teacher caches are found by their own digests,
and an equal result is an equal input to the steps behind it.
"""

from __future__ import annotations

from zenml.config.cache_policy import CachePolicy

from distillation.sources import digest_of_sources


def corpus_code() -> str:
    """Return the digest of what `load_corpus` runs through."""
    return digest_of_sources("steps.load_corpus")


def probing_code() -> str:
    """Return the digest of what `probe_models` runs through."""
    return digest_of_sources("steps.probe_models")


def alignment_code() -> str:
    """Return the digest of what `build_aligner` runs through."""
    return digest_of_sources("steps.build_aligner")


def training_code() -> str:
    """Return the digest of what `distill_student` runs through."""
    return digest_of_sources("steps.distill_student")


def evaluation_code() -> str:
    """Return the digest of what `evaluate_student` runs through."""
    return digest_of_sources("steps.evaluate_student")


# By name, not as objects: ZenML would look an object's source up while this module is being imported.
CORPUS_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.corpus_code"})
PROBING_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.probing_code"})
ALIGNMENT_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.alignment_code"})
TRAINING_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.training_code"})
EVALUATION_CACHE = CachePolicy.model_validate({"cache_func": f"{__name__}.evaluation_code"})
