"""Rows paired by number: the controls `truncate` and `pad`.

Legend, at the end of names: N used positions, U teacher vocabulary, V student vocabulary.

This is what scripts do that take the two vocabularies for one: position j learns from row j, id i from id
i, the first min(U, V) of them, renormalised. Between different tokenizers it compares unrelated tokens
(17 of 49,152 ids mean the same for Qwen2 and SmolLM), and the loss still falls. It is here to be measured
against, and for one tokenizer under two output layers of different size, where it is right.

- `truncate` cuts both sides to the first min(U, V) ids;
- `pad` fills the teacher up with ids of no mass, and keeps all of the student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.aligners.base import Aligner, Rows, Targets, finish
from distillation.tokenizers.pairs import EncodedPair
from distillation.tokenizers.spans import Alignment, align_by_index
from distillation.tokenizers.vocabularies import Vocabularies

if TYPE_CHECKING:
    from torch import Tensor


class PadAligner(Aligner):
    """Pairs ids by number; ids that the teacher lacks get no mass."""

    name = "pad"

    def align(self, pairs: Sequence[EncodedPair]) -> Alignment:
        """See `Aligner.align`; position j learns from row j as long as there is one."""
        return align_by_index(pairs)

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """See `Aligner.targets`."""
        import torch

        with torch.no_grad():
            both = min(self.num_teacher_rows, self.num_student_rows)
            probs_NV = teacher_log_probs_NU.detach()[:, :both].float().exp()
            residual_N = 1.0 - probs_NV.sum(dim=1)
            missing = self.num_student_rows - both
            written_NV = torch.nn.functional.pad(probs_NV, (0, missing)) if missing else probs_NV
            return finish(written_NV, residual_N, rows.student_token_N)


class TruncateAligner(PadAligner):
    """Pairs ids by number, both sides cut to as many as both have."""

    name = "truncate"


def build_pad_tables(vocabularies: Vocabularies) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return no tables: the rule is the ids themselves."""
    return {}, {}


def build_truncate_tables(vocabularies: Vocabularies) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the support of the student; nothing if all of its ids take part."""
    if vocabularies.num_student_rows <= vocabularies.num_teacher_rows:
        return {}, {}
    return {"student_support": np.arange(vocabularies.num_student_rows) < vocabularies.num_teacher_rows}, {}
