"""The gate between a finished run and the champion: pure comparison, no server, no I/O.

A student passes when its evaluation is complete, it was measured on the champion's held-out documents, and
it beats the text-only control and the champion by their margins. With m the margin and a lower metric the
better one, "beats b" is  a <= b - m |b|,  and a < b even for m = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from tracking.registry import Candidate


class GateLine(BaseModel):
    """One condition of the gate and what it found."""

    model_config = ConfigDict(frozen=True)

    condition: str
    passed: bool
    figures: str
    """What was compared, with both figures."""


class GateReport(BaseModel):
    """Every condition that was checked, in order."""

    model_config = ConfigDict(frozen=True)

    run_name: str
    lines: tuple[GateLine, ...]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(line.passed for line in self.lines)

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

    def summary(self) -> list[str]:
        """Return the lines for the terminal: what happened, why, and how to load the champion."""
        uri = f"models:/{self.model_name}@champion"
        return [
            f"Promoted: run {self.run_name} is {uri} (version {self.version}).",
            *(f"  {line.condition}: {line.figures}" for line in self.lines),
            "",
            f'Load it: MLFLOW_TRACKING_URI={self.tracking_uri} python -c "import mlflow; '
            f"print(mlflow.transformers.load_model('{uri}')('The function returns', max_new_tokens=40))\"",
        ]


def best_run(
    runs: Sequence[Candidate], champion: Candidate | None, settings: PromotionSettings
) -> tuple[Candidate, int]:
    """Return the best run by the metric, and how many runs it was compared with.

    Figures of different held-out documents cannot be ranked: the champion's set decides, and where no run
    has it, or there is no champion, the newest run's. Runs without the metric or a model do not compete, and
    the champion's own run only where it is the only one: the best *challenger* is what the gate looks at.

    Raises:
        PromotionError: no run has the metric and a model.
    """
    able = [
        run for run in runs if math.isfinite(run.metrics.get(settings.metric, math.nan)) and run.model_uri
    ]
    if not able:
        names = sorted({name for run in runs for name in run.metrics if "bits_per_byte" in name})
        raise PromotionError(
            f"metric = {settings.metric}: none of {len(runs)} finished runs has it together with a student; "
            f"metrics seen: {', '.join(names) or 'none'}"
        )
    sets = [run.held_out_fingerprint for run in able]
    chosen = champion.held_out_fingerprint if champion and champion.held_out_fingerprint in sets else sets[0]
    comparable = [run for run in able if run.held_out_fingerprint == chosen]
    challengers = [run for run in comparable if champion is None or run.run_id != champion.run_id]
    sign = -1.0 if settings.higher_is_better else 1.0
    return min(challengers or comparable, key=lambda run: sign * run.metrics[settings.metric]), len(
        comparable
    )


def judge(candidate: Candidate, champion: Candidate | None, settings: PromotionSettings) -> GateReport:
    """Check every condition; the report says which hold, with both figures."""
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
        _compare(
            "better than the control",
            candidate.metrics.get(settings.metric),
            candidate.metrics.get(settings.control_metric),
            settings.control_metric,
            settings.control_margin,
            settings,
        ),
    ]
    if champion is not None:
        lines += _against_champion(candidate, champion, settings)
    return GateReport(run_name=candidate.run_name, lines=tuple(lines))


def _against_champion(
    candidate: Candidate, champion: Candidate, settings: PromotionSettings
) -> list[GateLine]:
    name = f"models:/{settings.model_name}@champion"
    if candidate.run_id == champion.run_id:
        return [
            GateLine(
                condition="a new run",
                passed=False,
                figures=f"it already is {name} (version {champion.version}), no other run competes",
            )
        ]
    same_set = candidate.held_out_fingerprint == champion.held_out_fingerprint
    lines = [
        GateLine(
            condition="same held-out documents as the champion",
            passed=same_set,
            figures=f"{candidate.held_out_fingerprint} here, {champion.held_out_fingerprint} for {name}",
        )
    ]
    if same_set:
        lines.append(
            _compare(
                "better than the champion",
                candidate.metrics.get(settings.metric),
                champion.metrics.get(settings.metric),
                f"{name} (run {champion.run_name})",
                settings.champion_margin,
                settings,
            )
        )
    return lines


def _compare(
    condition: str,
    value: float | None,
    other: float | None,
    other_name: str,
    margin: float,
    settings: PromotionSettings,
) -> GateLine:
    if value is None or other is None:
        absent = settings.metric if value is None else other_name
        return GateLine(condition=condition, passed=False, figures=f"{absent} was not measured")
    sign = -1.0 if settings.higher_is_better else 1.0
    passed = sign * value <= sign * other - margin * abs(other) and sign * value < sign * other
    return GateLine(
        condition=condition,
        passed=bool(passed),
        figures=(
            f"{settings.metric} = {value:.4f}, {other_name} = {other:.4f}, required margin {100 * margin:g} %"
        ),
    )
