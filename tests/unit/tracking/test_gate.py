"""The gate: what passes, what is refused, and that the refusal shows both figures."""

from __future__ import annotations

import pytest

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from tracking.gate import best_run, judge
from tracking.registry import Candidate

SETTINGS = PromotionSettings(control_margin=0.01, champion_margin=0.01)


def run(name: str, bits: float, control: float | None = 2.0, **changes: object) -> Candidate:
    metrics = {"distilled.bits_per_byte": bits}
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
    assert len(report.lines) == 5


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
    settings = PromotionSettings(control_margin=0.0, champion_margin=0.0)
    assert not judge(run("new", 1.8), run("old", 1.8), settings).passed
    assert judge(run("new", 1.7999), run("old", 1.8), settings).passed


def test_higher_can_be_better() -> None:
    settings = PromotionSettings(
        metric="distilled.top1", control_metric="text_only.top1", higher_is_better=True, control_margin=0.1
    )
    good = run("good", 0, metrics={"distilled.top1": 0.60, "text_only.top1": 0.5})
    close = run("close", 0, metrics={"distilled.top1": 0.54, "text_only.top1": 0.5})
    assert judge(good, None, settings).passed
    assert not judge(close, None, settings).passed
    assert best_run([close, good], None, settings)[0].run_id == "good"


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


def test_without_a_fit_run_the_metrics_that_exist_are_named() -> None:
    broken = [run("a", float("nan")), run("b", 1.8, model_uri="")]
    with pytest.raises(PromotionError, match=r"none of 2 finished runs.*text_only\.bits_per_byte"):
        best_run(broken, None, SETTINGS)
