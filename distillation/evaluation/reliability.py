"""Whether a model is as often right as it is sure: counts by confidence, and the expected calibration error.

Each scored token falls into one of `NUM_CONFIDENCE_BINS` bins of equal width by the probability p of the
model's most likely token (its confidence); a bin keeps how many tokens it holds, how often the most likely
token was the right one (accuracy), and the mean of p.

    expected calibration error = sum over bins of (count / all) * |accuracy - mean confidence|

Guo et al. 2017, https://arxiv.org/abs/1706.04599. A confidence on an edge belongs to the bin above it.
Invariants (tests): counts sum to the scored tokens; the error follows from the bins alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

NUM_CONFIDENCE_BINS = 15


class Reliability(BaseModel):
    """What a reliability diagram shows: one entry a bin, from the least to the most confident."""

    model_config = ConfigDict(frozen=True)

    counts: tuple[int, ...]
    """Scored tokens in each bin."""
    accuracy: tuple[float | None, ...]
    """Share of a bin's tokens that were the most likely one; None for an empty bin."""
    mean_confidence: tuple[float | None, ...]
    """Mean probability of the most likely token in a bin; None for an empty bin."""


@dataclass
class ConfidenceTally:
    """Float64 sums over scored tokens in each bin."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(NUM_CONFIDENCE_BINS))
    correct: np.ndarray = field(default_factory=lambda: np.zeros(NUM_CONFIDENCE_BINS))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(NUM_CONFIDENCE_BINS))

    def add(self, confidences: np.ndarray, correct: np.ndarray) -> None:
        """Add tokens: probability of the most likely token, and whether it was the right one; both (N,)."""
        # A model that diverged gives no numbers: its tokens fall into the first bin on every machine.
        places = np.nan_to_num(confidences * NUM_CONFIDENCE_BINS).astype(np.int64)
        bins = np.clip(places, 0, NUM_CONFIDENCE_BINS - 1)
        np.add.at(self.counts, bins, 1.0)
        np.add.at(self.correct, bins, correct)
        np.add.at(self.confidence, bins, confidences)

    @property
    def num_tokens(self) -> int:
        """Tokens added so far."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of tokens whose most likely token was right."""
        return float(self.correct.sum() / self.counts.sum())

    @property
    def error(self) -> float:
        """Expected calibration error, from 0 to 1."""
        return float(np.abs(self.correct - self.confidence).sum() / self.counts.sum())

    @property
    def reliability(self) -> Reliability:
        """The bins as they are kept."""
        return Reliability(
            counts=tuple(int(count) for count in self.counts),
            accuracy=_means(self.correct, self.counts),
            mean_confidence=_means(self.confidence, self.counts),
        )


def _means(sums: np.ndarray, counts: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(total / count) if count else None for total, count in zip(sums, counts, strict=True))
