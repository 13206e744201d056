"""Processors that this one is not: what a decision looks at, given by hand."""

from __future__ import annotations

import pytest

TILES = {"avx512_f", "avx512_bf16", "amx_tile", "amx_bf16"}
VECTORS = {"avx512_f", "avx512_bf16"}


def give_processor(monkeypatch: pytest.MonkeyPatch, features: set[str]) -> None:
    """Let the processor have these instructions, all of them allowed."""
    monkeypatch.setattr("distillation.models.device._processor_features", lambda: features)
    monkeypatch.setattr("distillation.models.device._system_allows_tiles", lambda: True)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
