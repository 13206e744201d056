"""The gate: what passes, what is refused, and that the refusal shows both figures."""

from __future__ import annotations

import pytest

from distillation.config import PromotionSettings, parse_settings
from distillation.errors import PromotionError, SettingsError
from tracking.gate import best_run, judge
from tracking.registry import Candidate

SETTINGS = PromotionSettings(must_beat={"text_only.bits_per_byte": 0.01}, champion_margin=0.01)


def run(name: str, bits: float, control: float | None = 2.0, **changes: object) -> Candidate:
    metrics = {"distilled.bits_per_byte": bits, "distilled.advantage_low": 0.02}
    if control is not None:
        metrics["text_only.bits_per_byte"] = control
    fields: dict[str, object] = {
        "run_id": name,
        "run_name": name,
        "metrics": metrics,
        "held_out_fingerprint": "set-a",
        "missing": "",
        "model_uri": "models:/m-1",
    }
    return Candidate.model_validate(fields | changes)


def test_a_better_student_passes_every_condition() -> None:
    report = judge(run("new", 1.8), run("old", 1.9, version="3"), SETTINGS)
    assert report.passed
    assert [line.condition for line in report.lines] == [
        "evaluation complete",
        "held-out documents known",
        "better than text_only",
        "measurable advantage",
        "same held-out documents as the champion",
        "better than the champion",
    ]


@pytest.mark.parametrize(
    ("candidate", "champion", "words"),
    [
        (run("new", 1.99), None, ["distilled.bits_per_byte = 1.9900", "text_only.bits_per_byte = 2.0000"]),
        (run("new", 2.3), None, ["2.3000", "2.0000"]),
        (run("new", 1.8, control=None), None, ["text_only.bits_per_byte was not measured"]),
        (run("new", 1.8), run("old", 1.7), ["better than the champion", "1.8000", "1.7000"]),
        (run("new", 1.8), run("old", 1.81), ["1.8000", "1.8100", "margin 1 %"]),
        (run("new", 1.8), run("old", 1.9, held_out_fingerprint="set-b"), ["set-a", "set-b"]),
        (run("new", 1.8, missing="samples of teacher"), None, ["missing: samples of teacher"]),
        (run("new", 1.8, held_out_fingerprint=""), None, ["held-out documents known"]),
        (run("same", 1.8), run("same", 1.8, version="7"), ["already is", "version 7"]),
        (run("old", 1.8, retired="version 2 was rolled back at noon"), None, ["version 2", "tag 'retired'"]),
    ],
)
def test_refusals_name_what_failed(
    candidate: Candidate, champion: Candidate | None, words: list[str]
) -> None:
    report = judge(candidate, champion, SETTINGS)
    assert not report.passed
    assert "\n" not in report.refusal()
    for word in words:
        assert word in report.refusal()


def test_an_equal_student_is_no_improvement_even_without_margin() -> None:
    settings = PromotionSettings(must_beat={}, champion_margin=0.0)
    assert not judge(run("new", 1.8), run("old", 1.8), settings).passed
    assert judge(run("new", 1.7999), run("old", 1.8), settings).passed


def test_higher_can_be_better() -> None:
    settings = PromotionSettings(
        metric="distilled.top1",
        must_beat={"text_only.top1": 0.1},
        higher_is_better=True,
        require_measurable=False,
    )
    good = run("good", 0, metrics={"distilled.top1": 0.60, "text_only.top1": 0.5})
    close = run("close", 0, metrics={"distilled.top1": 0.54, "text_only.top1": 0.5})
    assert judge(good, None, settings).passed
    assert not judge(close, None, settings).passed
    assert best_run([close, good], None, settings)[0].run_id == "good"


def with_metrics(name: str, **figures: float) -> Candidate:
    metrics = {"distilled.bits_per_byte": 1.8, "text_only.bits_per_byte": 2.0}
    given = {name.replace("__", "."): value for name, value in figures.items()}
    return run(name, 1.8, metrics=metrics | given)


@pytest.mark.parametrize(
    ("settings", "figures", "passes", "words"),
    [
        ({}, {"distilled__advantage_low": 0.01}, True, []),
        ({}, {"distilled__advantage_low": 0.0}, False, ["advantage_low = 0.0000", "above 0"]),
        ({}, {"distilled__advantage_low": -0.02}, False, ["advantage_low = -0.0200", "above 0"]),
        ({}, {"distilled__advantage_low": float("nan")}, False, ["advantage_low = nan"]),
        ({}, {}, False, ["distilled.advantage_low was not measured"]),
        ({"require_measurable": False}, {}, True, []),
        ({"maximums": {"distilled.size_on_disk": 5e8}}, {"distilled__size_on_disk": 5e8}, True, []),
        (
            {"maximums": {"distilled.size_on_disk": 5e8}},
            {"distilled__size_on_disk": 500_000_001.0},
            False,
            ["distilled.size_on_disk = 500,000,001", "at most 500,000,000"],
        ),
        (
            {"maximums": {"distilled.first_token_ms": 12}},
            {"distilled__first_token_ms": 12.5},
            False,
            ["first_token_ms = 12.5, at most 12"],
        ),
        ({"maximums": {"distilled.first_token_ms": 12}}, {}, False, ["first_token_ms was not measured"]),
        ({"minimums": {"distilled.task.cloze.acc": 0.4}}, {"distilled__task.cloze.acc": 0.4}, True, []),
        (
            {"minimums": {"distilled.task.cloze.acc": 0.4}},
            {"distilled__task.cloze.acc": 0.39},
            False,
            ["distilled.task.cloze.acc = 0.39, at least 0.4"],
        ),
        (
            {"must_beat": {"text_only.bits_per_byte": 0.01, "truncate.bits_per_byte": 0.2}},
            {"truncate__bits_per_byte": 2.1},
            False,
            ["better than truncate", "truncate.bits_per_byte = 2.1000", "margin 20 %"],
        ),
        (
            {"must_beat": {"truncate.bits_per_byte": 0.0}},
            {},
            False,
            ["truncate.bits_per_byte was not measured"],
        ),
    ],
)
def test_limits_and_controls(
    settings: dict[str, object], figures: dict[str, float], passes: bool, words: list[str]
) -> None:
    is_about_it = "require_measurable" in settings or not settings
    base = {} if is_about_it else {"distilled__advantage_low": 0.01}
    report = judge(with_metrics("one", **base, **figures), None, PromotionSettings.model_validate(settings))
    assert report.passed is passes
    for word in words:
        assert word in report.refusal()


def test_losing_to_the_champion_alone_leaves_a_challenger() -> None:
    report = judge(run("new", 1.8), run("old", 1.7), SETTINGS)
    assert not report.passed
    assert report.may_challenge
    other_set = judge(run("new", 1.8), run("old", 1.9, held_out_fingerprint="set-b"), SETTINGS)
    assert not other_set.may_challenge


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"metric": "distilled.top1"}, ["text_only.bits_per_byte", "metric = distilled.top1"]),
        ({"must_beat": {"distilled.bits_per_byte": 0.1}}, ["distilled.bits_per_byte", "control"]),
        ({"must_beat": {"text_only.bits_per_byte": -1}}, ["must_beat.text_only.bits_per_byte = -1"]),
        ({"maximums": {"distilled.size_on_disk": "big"}}, ["maximums.distilled.size_on_disk = 'big'"]),
        ({"hub_repository": "a/b/c"}, ["hub_repository = 'a/b/c'", "OWNER/NAME"]),
        ({"hub_repository": "a/b", "export_dir": None}, ["hub_repository = 'a/b'", "export_dir"]),
        ({"model_name": "a/b"}, ["model_name = 'a/b'"]),
        ({"control_margin": 0.1}, ["unknown setting control_margin"]),
        ({"token": "x"}, ["unknown setting token"]),
    ],
)
def test_settings_that_cannot_be_are_one_line(raw: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw, PromotionSettings)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_controls_can_be_given_on_the_command_line() -> None:
    from pipelines.command import merge_overrides

    raw = merge_overrides(
        {"must_beat": {"text_only.bits_per_byte": 0.005}},
        ["must_beat={truncate.bits_per_byte: 0.02, text_only.bits_per_byte: 0.01}"],
    )
    settings = parse_settings(raw, PromotionSettings)
    assert settings.must_beat == {"truncate.bits_per_byte": 0.02, "text_only.bits_per_byte": 0.01}


def test_only_runs_on_the_same_held_out_documents_are_ranked() -> None:
    newest = run("newest", 1.9)
    runs = [newest, run("easy-set", 0.5, held_out_fingerprint="set-b"), run("older", 1.95)]
    assert best_run(runs, None, SETTINGS) == (newest, 2)
    champion = run("champion", 0.6, held_out_fingerprint="set-b")
    assert best_run(runs, champion, SETTINGS)[0].run_id == "easy-set"


def test_the_champion_does_not_challenge_itself() -> None:
    champion = run("champion", 1.5)
    worse = run("worse", 1.9)
    assert best_run([worse, champion], champion, SETTINGS)[0].run_id == "worse"
    assert best_run([champion], champion, SETTINGS)[0].run_id == "champion"


def test_a_run_that_was_rolled_back_does_not_come_back() -> None:
    best = run("best", 1.5, retired="version 2 was rolled back")
    assert best_run([best, run("next", 1.7)], None, SETTINGS)[0].run_id == "next"
    assert best_run([best, run("champion", 1.9)], run("champion", 1.9), SETTINGS)[0].run_id == "best"


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([run("a", float("nan"))], "no finite number in the 1 that have it"),
        ([run("a", float("nan")), run("b", 1.8, model_uri="")], "the 1 with a figure hold no student"),
        (
            [run("a", 1.8, metrics={"text_only.bits_per_byte": 2.0})],
            r"those they have: text_only\.bits_per_byte",
        ),
        ([], "run the pipeline first"),
    ],
)
def test_without_a_fit_run_the_reason_is_the_one_that_holds(runs: list[Candidate], reason: str) -> None:
    with pytest.raises(PromotionError, match=rf"^metric = distilled\.bits_per_byte: none of .*{reason}"):
        best_run(runs, None, SETTINGS)
