"""Names of artifact types for the signatures of steps.

ZenML resolves a step's annotations with pydantic, which looks into the fields of a dataclass; those of
`Corpus` are of a library that is only imported where it is used. So a type checker sees the class, and ZenML
sees `Any` and keeps the artifact with the materializer that the step names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillation.corpus.corpus import Corpus
else:
    Corpus = Any

__all__ = ["Corpus"]
