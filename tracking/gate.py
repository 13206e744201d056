"""The gate between a finished run and the champion: pure comparison, no server, no I/O.

A student passes when its evaluation is complete, it was measured on the champion's held-out documents, it
beats its own controls and the champion by their margins, its advantage is larger than what another draw of
documents would change, and it stays within the limits. With m the margin and a lower metric the better one,
"beats b" is  a <= b - m |b|,  and a < b even for m = 0. A figure that was not measured fails its line.

Lines about the student alone decide whether it becomes a version; the line against the champion decides
whether it is the champion or waits as challenger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from tracking.registry import CHALLENGER, CHAMPION, Candidate
from tracking.versions import beats

ADVANTAGE_LOW = "distilled.advantage_low"


class GateLine(BaseModel):
    """One condition of the gate and what it found."""

    model_config = ConfigDict(frozen=True)

    condition: str
    passed: bool
    figures: str
    """What was compared, with both figures."""
    is_against_champion: bool = False
    """Whether it is about the contest and not about the student."""


class GateReport(BaseModel):
    """Every condition that was checked, in order."""

    model_config = ConfigDict(frozen=True)

    run_name: str
    lines: tuple[GateLine, ...]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(line.passed for line in self.lines)

    @property
    def may_challenge(self) -> bool:
        """Whether every condition about the student itself holds."""
        return all(line.passed for line in self.lines if not line.is_against_champion)

    def refusal(self) -> str:
        """Return the conditions that failed as one line."""
        failed = "; ".join(f"{line.condition}: {line.figures}" for line in self.lines if not line.passed)
        return f"run {self.run_name} is not promoted: {failed}"


class Contest(BaseModel):
    """A candidate and the champion that it challenges."""

    model_config = ConfigDict(frozen=True)

    candidate: Candidate
    champion: Candidate | None
    num_runs: int
    """Finished runs on the same held-out documents that the candidate was chosen from."""


class Promotion(BaseModel):
    """What a promotion did."""

    model_config = ConfigDict(frozen=True)

    model_name: str
    version: str
    run_name: str
    tracking_uri: str
    lines: tuple[GateLine, ...]
    """The conditions that it passed."""


def best_run(
    runs: Sequence[Candidate], champion: Candidate | None, settings: PromotionSettings
) -> tuple[Candidate, int]:
    """Return the best run by the metric, and how many runs it was compared with.

    Figures of different held-out documents cannot be ranked: the champion's set decides, and where no run
    has it, or there is no champion, the newest run's. Runs without the metric or a model do not compete, and
    the champion's own run and those that were rolled back only where there are no others: the best
    *challenger* is what the gate looks at.

    Raises:
        PromotionError: no run has the metric and a model.
    """
    able = [
        run for run in runs if math.isfinite(run.metrics.get(settings.metric, math.nan)) and run.model_uri
    ]
    if not able:
        raise PromotionError(
            f"metric = {settings.metric}: none of {len(runs)} finished run(s) can be promoted: "
            f"{_why_none(runs, settings.metric)}"
        )
    sets = [run.held_out_fingerprint for run in able]
    chosen = champion.held_out_fingerprint if champion and champion.held_out_fingerprint in sets else sets[0]
    comparable = [run for run in able if run.held_out_fingerprint == chosen]
    challengers = [
        run for run in comparable if not run.retired and (champion is None or run.run_id != champion.run_id)
    ]
    sign = -1.0 if settings.higher_is_better else 1.0
    return min(challengers or comparable, key=lambda run: sign * run.metrics[settings.metric]), len(
        comparable
    )


def _why_none(runs: Sequence[Candidate], metric: str) -> str:
    """Return why no run has a finite figure and a student, and the remedy."""
    having = [run for run in runs if metric in run.metrics]
    if not runs:
        return "run the pipeline first, or name another experiment"
    if not having:
        names = sorted({name for run in runs for name in run.metrics if "bits_per_byte" in name})
        return f"they lack it; name one of those they have: {', '.join(names) or 'none'}"
    broken = sum(not math.isfinite(run.metrics[metric]) for run in having)
    if broken == len(having):
        return f"it is no finite number in the {broken} that have it; their training failed, train anew"
    return f"the {len(having) - broken} with a figure hold no student; run the pipeline again"


def judge(candidate: Candidate, champion: Candidate | None, settings: PromotionSettings) -> GateReport:
    """Check every condition; the report says which hold, with both figures."""
    lines = _about_its_record(candidate)
    for name, margin in settings.must_beat.items():
        lines.append(_compare(candidate, candidate.metrics.get(name), name, margin, settings))
    if settings.require_measurable:
        lines.append(_measurable(candidate.metrics.get(ADVANTAGE_LOW)))
    for name, limit in settings.maximums.items():
        lines.append(_limited(name, candidate.metrics.get(name), limit, is_maximum=True))
    for name, limit in settings.minimums.items():
        lines.append(_limited(name, candidate.metrics.get(name), limit, is_maximum=False))
    if champion is not None:
        lines += _against_champion(candidate, champion, settings)
    return GateReport(run_name=candidate.run_name, lines=tuple(lines))


def challenger_refusal(report: GateReport, settings: PromotionSettings, version: int) -> str:
    """Return the line for a student that passed all about itself and lost to the champion."""
    return f"{report.refusal()}; it stays models:/{settings.model_name}@{CHALLENGER} (version {version})"


def _about_its_record(candidate: Candidate) -> list[GateLine]:
    lines = [
        GateLine(
            condition="evaluation complete",
            passed=not candidate.missing,
            figures=f"missing: {candidate.missing}" if candidate.missing else "nothing missing",
        ),
        GateLine(
            condition="held-out documents known",
            passed=bool(candidate.held_out_fingerprint),
            figures=f"fingerprint {candidate.held_out_fingerprint or 'absent'}",
        ),
    ]
    if candidate.retired:
        figures = f"{candidate.retired}; delete the version's tag 'retired' to let it compete again"
        lines.append(GateLine(condition="not rolled back", passed=False, figures=figures))
    return lines


def _against_champion(
    candidate: Candidate, champion: Candidate, settings: PromotionSettings
) -> list[GateLine]:
    name = f"models:/{settings.model_name}@{CHAMPION}"
    if candidate.run_id == champion.run_id:
        return [
            GateLine(
                condition="a new run",
                passed=False,
                figures=f"it already is {name} (version {champion.version}), no other run competes",
            )
        ]
    same_set = candidate.held_out_fingerprint == champion.held_out_fingerprint
    figures = f"{candidate.held_out_fingerprint} here, {champion.held_out_fingerprint} for {name}"
    if not same_set:
        figures += "; evaluate on the champion's documents, or promote under another model_name"
    lines = [GateLine(condition="same held-out documents as the champion", passed=same_set, figures=figures)]
    if same_set:
        line = _compare(
            candidate,
            champion.metrics.get(settings.metric),
            f"{name} (run {champion.run_name})",
            settings.champion_margin,
            settings,
        )
        update = {"condition": "better than the champion", "is_against_champion": True}
        lines.append(line.model_copy(update=update))
    return lines


def _compare(
    candidate: Candidate, other: float | None, other_name: str, margin: float, settings: PromotionSettings
) -> GateLine:
    value = candidate.metrics.get(settings.metric)
    condition = f"better than {other_name.partition('.')[0]}"
    if value is None or other is None:
        absent = settings.metric if value is None else other_name
        return GateLine(condition=condition, passed=False, figures=f"{absent} was not measured")
    return GateLine(
        condition=condition,
        passed=beats(value, other, margin=margin, higher_is_better=settings.higher_is_better),
        figures=(
            f"{settings.metric} = {value:.4f}, {other_name} = {other:.4f}, required margin {100 * margin:g} %"
        ),
    )


def _measurable(lowest: float | None) -> GateLine:
    condition = "measurable advantage"
    if lowest is None:
        return GateLine(condition=condition, passed=False, figures=f"{ADVANTAGE_LOW} was not measured")
    return GateLine(
        condition=condition,
        passed=lowest > 0,
        figures=f"{ADVANTAGE_LOW} = {lowest:.4f}, must be above 0",
    )


def _limited(name: str, value: float | None, limit: float, *, is_maximum: bool) -> GateLine:
    words = "at most" if is_maximum else "at least"
    condition = f"{name} {words} {_plain(limit)}"
    if value is None:
        return GateLine(condition=condition, passed=False, figures=f"{name} was not measured")
    passed = value <= limit if is_maximum else value >= limit
    return GateLine(
        condition=condition, passed=passed, figures=f"{name} = {_plain(value)}, {words} {_plain(limit)}"
    )


def _plain(value: float) -> str:
    """Return a figure as people write it: bytes without an exponent, shares with four decimals."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
