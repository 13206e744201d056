"""Intervals: how many hold the truth, what pairing leaves out, what one seed cannot say."""

from __future__ import annotations

import numpy as np
import pytest

from distillation.experiment.statistics import NUM_DRAWS, document_draws, estimate

NUM_WORLDS = 400


def worlds(num_seeds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (values of the seeds, draws) of simulated comparisons whose true mean is 0.

    A figure is the mean over 30 documents of an effect of the document plus one of the seed; both are noise.
    """
    random = np.random.default_rng(7)
    found = []
    for _ in range(NUM_WORLDS):
        figures_SN = random.normal(0, 0.3, (num_seeds, 1)) + random.normal(0, 1.0, (1, 30))
        counts_DN = random.multinomial(30, np.full(30, 1 / 30), 1000)
        found.append((figures_SN.mean(1), counts_DN @ figures_SN.T / 30))
    return found


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_nineteen_of_twenty_intervals_hold_the_truth(num_seeds: int) -> None:
    held = 0
    for values, draws in worlds(num_seeds):
        found = estimate(list(values), draws)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.0 <= found.high
    assert 0.92 <= held / NUM_WORLDS <= 0.995


def test_the_plain_bootstrap_over_three_seeds_is_far_too_sure() -> None:
    """Why seeds are not drawn with replacement: the figure that the module's docstring names."""
    random = np.random.default_rng(3)
    plain = ours = 0
    for _ in range(NUM_WORLDS):
        values = random.normal(size=3)
        means = values[random.integers(3, size=(2000, 3))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        plain += low <= 0.0 <= high
        found = estimate(list(values))
        assert found.low is not None
        assert found.high is not None
        ours += found.low <= 0.0 <= found.high
    assert 0.65 <= plain / NUM_WORLDS <= 0.83
    assert 0.92 <= ours / NUM_WORLDS <= 0.98


def test_pairing_leaves_out_what_seeds_and_documents_have_in_common() -> None:
    random = np.random.default_rng(0)
    bits = random.uniform(1000, 3000, 40)
    num_bytes = np.full(40, 1000)
    control = np.stack([document_draws(bits * factor, num_bytes) for factor in (1.0, 1.1, 1.2)], axis=1)
    student = 0.98 * control  # two per cent better with every seed and document
    values = 1 - 0.98 * np.ones(3)
    paired = estimate(list(values), (control - student) / control)
    assert paired.low == pytest.approx(0.02)
    assert paired.high == pytest.approx(0.02)
    assert paired.direction == "better"
    alone = estimate([2.0, 2.2, 2.4], control)
    assert alone.low is not None
    assert alone.high is not None
    assert alone.high - alone.low > 0.4


def test_equal_students_have_no_measurable_difference() -> None:
    same = estimate([0.0, 0.0, 0.0], np.zeros((NUM_DRAWS, 3)))
    assert (same.low, same.high, same.direction) == (0.0, 0.0, "equal")


def test_one_seed_speaks_of_documents_only() -> None:
    assert estimate([1.5]).low is None
    assert estimate([1.5]).direction == "equal"
    draws = document_draws([900.0, 1100.0, 1000.0], [500, 500, 500])[:, None]
    found = estimate([2.0], draws)
    assert found.low is not None
    assert found.low < 2.0


def test_draws_of_documents_agree_with_a_loop() -> None:
    """Naive reference: the same counts, one document after another."""
    bits, num_bytes = [10.0, 400.0, 33.0, 7.0], [5, 100, 20, 4]
    counts = np.random.default_rng(0).multinomial(4, [0.25] * 4, NUM_DRAWS)
    fast = document_draws(bits, num_bytes)
    for row in (0, 1, 17, NUM_DRAWS - 1):
        total_bits = total_bytes = 0.0
        for document, count in enumerate(counts[row]):
            for _ in range(count):
                total_bits += bits[document]
                total_bytes += num_bytes[document]
        assert fast[row] == pytest.approx(total_bits / total_bytes)
    assert fast.mean() == pytest.approx(sum(bits) / sum(num_bytes), rel=0.2)


def test_directions() -> None:
    assert estimate([0.1, 0.11, 0.12]).direction == "better"
    assert estimate([-0.1, -0.11, -0.12]).direction == "worse"
    assert estimate([-0.1, 0.11, 0.12]).direction == "equal"
