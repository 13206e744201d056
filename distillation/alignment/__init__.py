"""Alignment of two tokenizers: tokens as bytes, spans, vocabulary aligners, the tokenizer audit.

Names are loaded on first use, so that `distillation.alignment.audit` starts without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillation.alignment.audit import TokenizerAudit, audit_tokenizers
    from distillation.alignment.base import Aligner, Rows, Targets
    from distillation.alignment.build import build_aligner, build_schedule, load_aligner
    from distillation.alignment.pairs import EncodedPair, EncodedText, PairEncoder
    from distillation.alignment.spans import Alignment, Groups, align_spans, group_spans
    from distillation.alignment.token_bytes import TokenBytes, same_tokenizer, tokens_as_bytes

_HOME = {
    "Aligner": "base",
    "Alignment": "spans",
    "EncodedPair": "pairs",
    "EncodedText": "pairs",
    "Groups": "spans",
    "PairEncoder": "pairs",
    "Rows": "base",
    "Targets": "base",
    "TokenBytes": "token_bytes",
    "TokenizerAudit": "audit",
    "align_spans": "spans",
    "audit_tokenizers": "audit",
    "build_aligner": "build",
    "build_schedule": "build",
    "group_spans": "spans",
    "load_aligner": "build",
    "same_tokenizer": "token_bytes",
    "tokens_as_bytes": "token_bytes",
}

__all__ = [
    "Aligner",
    "Alignment",
    "EncodedPair",
    "EncodedText",
    "Groups",
    "PairEncoder",
    "Rows",
    "Targets",
    "TokenBytes",
    "TokenizerAudit",
    "align_spans",
    "audit_tokenizers",
    "build_aligner",
    "build_schedule",
    "group_spans",
    "load_aligner",
    "same_tokenizer",
    "tokens_as_bytes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
