"""Who is champion by right: a pure function of the versions, whoever computes it."""

from __future__ import annotations

import itertools

import pytest

from tracking.versions import Judgement, Version, beats, challenger_of, lineage


def version(number: int, bits: float, margin: float = 0.0, **changes: object) -> Version:
    judgement = Judgement(metric="bits", value=bits, higher_is_better=False, champion_margin=margin)
    fields: dict[str, object] = {
        "number": number,
        "run_id": f"run-{number}",
        "run_name": f"run {number}",
        "held_out_fingerprint": "set-a",
        "judgement": judgement,
        "retired": "",
        "replaced": None,
        "weights": "",
    }
    return Version.model_validate(fields | changes)


def no_figure(*_: object) -> None:
    raise AssertionError("all were judged by one metric")


def numbers(versions: list[Version]) -> list[int]:
    return [one.number for one in lineage(versions, no_figure)]


def test_each_that_beats_the_champion_of_then_takes_over() -> None:
    versions = [version(1, 1.9), version(2, 2.0), version(3, 1.8), version(4, 1.85), version(5, 1.8)]
    for order in itertools.permutations(versions):
        assert numbers(list(order)) == [1, 3]


def test_a_gain_below_the_margin_never_takes_over_later() -> None:
    versions = [version(1, 1.80, 0.01), version(2, 1.799, 0.01), version(3, 1.795, 0.01)]
    assert numbers(versions) == [1]
    assert numbers([*versions, version(4, 1.78, 0.01)]) == [1, 4]


def test_retired_versions_and_other_held_out_sets_are_passed_over() -> None:
    first, second = version(1, 1.9), version(2, 1.8, retired="noon")
    other = version(3, 0.5, held_out_fingerprint="set-b")
    assert numbers([first, second, other, version(4, 1.85)]) == [1, 4]
    assert numbers([second]) == []


def test_a_version_judged_by_another_metric_is_compared_by_it() -> None:
    old = version(1, 1.9)
    judgement = Judgement(metric="accuracy", value=0.5, higher_is_better=True, champion_margin=0.0)
    new = version(2, 0).model_copy(update={"judgement": judgement})
    for accuracy, expected in ((0.4, [1, 2]), (0.6, [1]), (None, [1])):
        found = lineage([old, new], lambda *_, accuracy=accuracy: accuracy)
        assert [one.number for one in found] == expected


def test_the_challenger_is_the_newest_that_lost_to_the_champion_alone() -> None:
    versions = [version(1, 1.9), version(2, 1.95), version(3, 1.8), version(4, 1.85)]
    [*_, champion] = lineage(versions, no_figure)
    assert champion.number == 3
    challenger = challenger_of(versions, champion)
    assert challenger is not None
    assert challenger.number == 4
    assert challenger_of(versions[:3], champion) is None
    retired = versions[3].model_copy(update={"retired": "noon"})
    assert challenger_of([*versions[:3], retired], champion) is None


@pytest.mark.parametrize(
    ("value", "other", "margin", "higher", "expected"),
    [
        (1.8, 1.8, 0.0, False, False),
        (1.79, 1.8, 0.0, False, True),
        (1.79, 1.8, 0.01, False, False),
        (0.6, 0.5, 0.1, True, True),
        (0.54, 0.5, 0.1, True, False),
        (float("nan"), 1.8, 0.0, False, False),
        (1.8, float("nan"), 0.0, False, False),
        (-1.0, -0.5, 0.5, False, True),
    ],
)
def test_beating_is_relative(value: float, other: float, margin: float, higher: bool, expected: bool) -> None:
    assert beats(value, other, margin=margin, higher_is_better=higher) is expected
