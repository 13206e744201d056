"""Means and 95 % intervals of paired figures, over seeds and over held-out documents.

A figure of a variant is uncertain for two reasons: another seed would have trained another student, and other
held-out documents would have measured otherwise. With f(d, s) the figure of seed s on draw d of the documents
(bootstrap; the same documents for all students and seeds), a draw of its mean is

    mean over s of f(d, s)  +  t(S - 1) * deviation over s of f(d, s) / sqrt(S)

with t a draw of Student's t. The 95 % interval lies between the 2.5 % and the 97.5 % quantile of these draws.
Drawing seeds with replacement as well, the plain bootstrap, would be far too sure at three seeds: its
interval cannot leave the range of the three, and holds the true mean in 3 of 4 cases instead of 19 of 20
(tests/unit/experiment/test_statistics.py counts both).

Figures are paired: a difference is taken between students of the same seed on the same draw of the documents.
With one seed only the documents are drawn, and the interval does not speak of other seeds.

Letters: D draws of the documents, S seeds, N documents.
Invariants (tests): about 95 % of such intervals hold the truth; equal students have a difference of 0 with
the interval [0, 0]; pairing leaves out what seeds have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.evaluation.result import INTERVAL

NUM_DRAWS = 4000
Direction = Literal["better", "worse", "equal"]


class Estimate(BaseModel):
    """A mean over seeds with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float | None
    """Lower end; None where nothing is known of the spread: one seed, and a figure without documents."""
    high: float | None
    values: tuple[float, ...]
    """The figure of each seed, in the order of the seeds."""

    @property
    def direction(self) -> Direction:
        """`better` if the whole interval lies above 0, `worse` below; `equal`: no measurable difference."""
        if self.low is None or self.high is None or self.low <= 0.0 <= self.high:
            return "equal"
        return "better" if self.low > 0 else "worse"


def estimate(values_S: Sequence[float], draws_DS: Any = None) -> Estimate:
    """Return the mean of a figure over seeds and its 95 % interval.

    Args:
        values_S: the figure of each seed on the documents as they are.
        draws_DS: the figure of each seed on `NUM_DRAWS` draws of the documents; None for a figure that is
            not made of documents, such as a speed.
    """
    values = np.asarray(values_S, dtype=float)
    num_seeds = len(values)
    mean = float(values.mean())
    if draws_DS is None:
        if num_seeds < 2:
            return Estimate(mean=mean, low=None, high=None, values=tuple(values))
        draws_DS = np.broadcast_to(values, (NUM_DRAWS, num_seeds))
    draws = np.asarray(draws_DS, dtype=float)
    means_D = draws.mean(1)
    if num_seeds > 1:
        noise_D = np.random.default_rng(1).standard_t(num_seeds - 1, size=len(draws))
        means_D = means_D + noise_D * draws.std(1, ddof=1) / np.sqrt(num_seeds)
    low, high = np.quantile(means_D, INTERVAL)
    return Estimate(mean=mean, low=float(low), high=float(high), values=tuple(values))


def document_draws(bits_N: Sequence[float], num_bytes_N: Sequence[int]) -> np.ndarray:
    """Return the bits per byte (D,) on `NUM_DRAWS` draws of N documents: the same draws for every model."""
    bits, num_bytes = np.asarray(bits_N, dtype=float), np.asarray(num_bytes_N, dtype=float)
    counts_DN = _counts(len(bits))
    return (counts_DN @ bits) / np.maximum(counts_DN @ num_bytes, 1)


@lru_cache(maxsize=1)
def _counts(num_documents: int) -> np.ndarray:
    """Return how often each draw holds each document (D, N): one matrix product then draws them all."""
    shares_N = np.full(num_documents, 1 / num_documents)
    return np.random.default_rng(0).multinomial(num_documents, shares_N, NUM_DRAWS)
