"""Aligners that are trained beside the student: their tables, and what they need.

The modules that they train live in `aligners.trained_heads`, which has their maths and their sources:

- `learned` starts as `prefix` and learns a low-rank correction of its targets;
- `attention` makes its targets by attending over the teacher's states (DSKD-CMA). It uses no table, and every
  position of the student that stands over the teacher's text can have a target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillation.aligners.base import Aligner, Rows, Targets
from distillation.aligners.prefix import PrefixAligner

if TYPE_CHECKING:
    from torch import Tensor


class LearnedAligner(PrefixAligner):
    """The byte-prefix rule with a correction that is learnt from the text."""

    name = "learned"
    companion = "learned"


class AttentionAligner(Aligner):
    """Cross-model attention: the targets come from trained modules alone."""

    name = "attention"
    companion = "attention"
    reads_log_probs = False

    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """Not to be called: without its companion this aligner knows nothing.

        Raises:
            TypeError: always.
        """
        raise TypeError("the aligner `attention` has targets only while its modules are trained")
