"""What a comparison writes into MLflow: mean curves and the table of the variants."""

from __future__ import annotations

from typing import Any

import pytest

from distillation.experiment.result import Comparison


def history(offset: float, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "tokens": 1000 * step + int(offset),
            "time": 50.0 + step,
            "metrics": {"held_out/bits_per_byte": 3.0 / step + offset} | ({"loss": 1.0} if step > 1 else {}),
        }
        for step in steps
    ]


def test_a_mean_curve_has_the_steps_that_all_seeds_have() -> None:
    """Naive reference: one step after another."""
    from tracking.records.comparison_record import mean_curve

    seeds = [history(0.0, (1, 2, 3, 4)), history(3.0, (1, 2, 3)), history(6.0, (2, 3, 4))]
    curve = mean_curve(seeds, "held_out/bits_per_byte")
    assert [entry.step for entry in curve] == [2003, 3003]
    for entry, step in zip(curve, (2, 3), strict=True):
        values = [
            line["metrics"]["held_out/bits_per_byte"]
            for seed in seeds
            for line in seed
            if line["step"] == step
        ]
        assert entry.value == pytest.approx(sum(values) / 3)
        assert entry.key == "held_out/bits_per_byte"
    assert mean_curve(seeds, "unknown") == []
    assert mean_curve([], "held_out/bits_per_byte") == []


def test_the_table_has_a_row_for_each_variant(comparison: Comparison) -> None:
    from tracking.records.comparison_record import comparison_columns

    columns = comparison_columns(comparison.variants)
    assert len({len(cells) for cells in columns.values()}) == 1
    row = columns["variant"].index("prefix")
    saving = comparison.variant("prefix").saving
    assert saving is not None
    assert columns["saving"][row] == pytest.approx(saving.mean, abs=1e-5)
    assert columns["beside_text_alone"][row] == "better"
    assert columns["saving"][columns["variant"].index("text_only")] is None
