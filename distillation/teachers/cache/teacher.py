"""What stands in for the teacher when a student learns from a cache: numbers that it said before.

Legend, at the end of names: n rows, U teacher vocabulary.

Likelihood matching needs two numbers a teacher token: the log-probability of the token and that of a word's
beginning. In a batch of the cache these two are the "state" of a row, which is all that this class reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillation.kernels.batch import Teacher
from distillation.models.finite import nonfinite_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from distillation.config import CacheSettings


class CachedTeacher(Teacher):
    """Answers what `LiveTeacher` is asked by the terms that a cache serves.

    Args:
        settings: kind of the cache.
    """

    is_live = False

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings

    def token_and_set_log_probs(self, states_n2: Tensor, tokens_n: Tensor, member_U: Tensor) -> Tensor:
        """Return float32 (n, 2): of the text's own token, and that a new word begins."""
        return states_n2.float()

    def is_finite(self, batch: Mapping[str, Tensor]) -> bool:
        """See `Teacher.is_finite`."""
        kept = ((name, tensor) for name, tensor in batch.items() if name.startswith("cached_"))
        return nonfinite_tensor(kept) is None
