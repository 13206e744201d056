"""The report of a comparison of many students: one HTML file that stands alone, verdict first.

Below the comparison itself it shows the chosen student as the report of one distillation does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.experiment.result import Comparison, VariantSummary
from distillation.metrics_log import METRICS_FILE
from distillation.report import comparison_figures as draw
from distillation.report.comparison_words import (
    against_best,
    against_control,
    details,
    sentence,
    variant_label,
    verdict,
    with_interval,
)
from distillation.report.histories import History, read_history
from distillation.report.page import as_yaml
from distillation.report.tasks import DRAWN_FIRST
from distillation.report.templating import Drawing, environment, figure_entry, render_page
from distillation.report.words import MISSING, SPACE, decimal, percent, scaled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distillation.config import Settings
    from distillation.experiment.search import Found
    from distillation.experiment.statistics import Estimate

COLUMNS = ("Variant", "Bits per byte", "Gap closed", "Beside text alone", "Beside the chosen")
MEASURE_COLUMNS = (
    "Variant",
    "Saved over text alone",
    "Top-1 agreement",
    "KL, nats",
    "Calibration error",
    "Trained, tokens/s",
    "Training",
)
MEASURES = (
    ("top1_agreement", "Top-1 agreement with the teacher", "positions with its most likely token (%)", True),
    ("kl_divergence", "KL divergence from the teacher", "nats a position (less is better)", False),
    (
        "expected_calibration_error",
        "Calibration error",
        "expected calibration error (%, less is better)",
        True,
    ),
)
"""Measure, title, unit, whether it is a share."""
VALIDATION = "held_out/bits_per_byte"


def comparison_drawings(
    comparison: Comparison, histories: Mapping[str, Sequence[History]], found: Found | None = None
) -> list[Drawing]:
    """Return the figures that set the variants side by side, of what was measured."""
    over_both = "dots: seeds; bars: 95 % intervals over seeds and documents"
    over_seeds = "dots: seeds; bars: 95 % intervals over seeds"
    colours = draw.colours_of(comparison)
    curves = draw.mean_curves(histories, VALIDATION, "bits per byte", colours)
    drawn: list[tuple[str, str, str, Figure | None]] = [
        ("gap_closed", "What the teacher's help is worth", over_both, draw.gap_figure(comparison)),
        ("bits_per_byte", "Bits per byte", over_both, draw.bits_figure(comparison)),
        (
            "validation",
            "Validation bits per byte along training",
            "means over seeds; shaded: their range",
            curves,
        ),
        ("cost", "What it costs", f"on {comparison.device}", draw.cost_figure(comparison)),
    ]
    for measure, title, unit, is_share in (*MEASURES, *_task_measures(comparison)):
        figure = draw.measure_figure(comparison, measure, unit, as_percent=is_share)
        drawn.append((re.sub(r"[^A-Za-z0-9_]", "_", measure), title, over_seeds, figure))
    if found is not None and found.failure is None:
        values = [trial.validation_bits_per_byte for trial in found.trials]
        drawn.append(("search", "The search", "each trial is a student", draw.search_figure(values)))
    return [Drawing(name, title, note, figure) for name, title, note, figure in drawn if figure is not None]


def comparison_files(drawings: Sequence[Drawing]) -> dict[str, bytes]:
    """Return the drawings as PNG on white by their path; they are changed, and not for further use."""
    from distillation.report.images import as_png

    return {f"comparison/{one.name}.png": as_png(one.figure, one.title) for one in drawings}


def read_histories(comparison: Comparison) -> dict[str, list[History]]:
    """Return the training logs of all students by variant, seed by seed."""
    found: dict[str, list[History]] = {}
    for one in comparison.students:
        if one.result is not None:
            found.setdefault(one.variant, []).append(read_history(Path(one.job_dir) / METRICS_FILE))
    return found


def comparison_page(
    comparison: Comparison,
    drawings: Sequence[Drawing],
    settings: Settings,
    *,
    chosen: Mapping[str, Any] | None = None,
    found: Found | None = None,
    title: str = "Student-aware distillation: comparison",
) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        comparison: what `summarise` made of the students.
        drawings: what `comparison_drawings` drew.
        settings: all settings, shown as YAML.
        chosen: the `sections` of the chosen student beside the controls of its seed.
        found: what a search found.
        title: stands above the verdict and in the browser's tab.
    """
    from markupsafe import Markup

    return render_page(
        "comparison.html",
        title=title,
        nbsp=SPACE,
        verdict=verdict(comparison),
        sentence=sentence(comparison),
        details=details(comparison),
        failures=comparison.failures,
        columns=COLUMNS,
        measure_columns=MEASURE_COLUMNS,
        rows=[_row(one, comparison) for one in comparison.variants],
        references=_references(comparison),
        figures=[figure_entry(one.figure, one.title, one.note) for one in drawings],
        comparison=comparison,
        num_bytes=scaled(comparison.num_held_out_bytes, "B"),
        chosen=Markup(environment().get_template("sections.html").render(chosen)) if chosen else "",
        passages=bool(chosen and chosen["passages"]),
        trials=_trials(found),
        importances=[(name, percent(share)) for name, share in found.importances.items()] if found else [],
        configuration=as_yaml(settings),
    )


def _row(one: VariantSummary, comparison: Comparison) -> dict[str, Any]:
    bits = one.bits_per_byte
    spread = (
        f" ± {decimal((bits.high - bits.low) / 2)}"
        if bits and bits.low is not None and bits.high is not None
        else ""
    )
    return {
        "label": variant_label(one.name),
        "explanation": one.description,
        "is_best": one.name == comparison.chosen,
        "main": [
            decimal(bits.mean) + spread if bits else MISSING,
            with_interval(one.gap_closed),
            against_control(one),
            MISSING if one.is_control else against_best(one, comparison.chosen),
        ],
        "measures": [
            percent(_mean(one.saving), 1),
            _share(one.measures.get("top1_agreement")),
            decimal(_mean(one.measures.get("kl_divergence"))),
            _share(one.measures.get("expected_calibration_error")),
            scaled(_mean(one.measures.get("training_tokens_per_second"))),
            _duration(_mean(one.measures.get("training_seconds"))),
        ],
    }


def _references(comparison: Comparison) -> str:
    teachers = comparison.teachers
    parts = [f"untouched student {decimal(comparison.untouched.bits_per_byte)}"]
    parts += [
        f"teacher{f' {path}' if len(teachers) > 1 else ''} {decimal(result.bits_per_byte)}"
        for path, result in teachers.items()
    ]
    return ", ".join(parts)


def _task_measures(comparison: Comparison) -> list[tuple[str, str, str, bool]]:
    """Return measure, title, unit and kind of one figure for each task."""
    found: dict[str, str] = {}
    for one in comparison.variants:
        for measure in one.measures:
            if measure.startswith("task.") and measure.rsplit(".", 1)[1] in DRAWN_FIRST:
                found.setdefault(measure.split(".", 1)[1].rsplit(".", 1)[0], measure)
    unit = "items that are right (%, more is better)"
    return [(measure, f"Task {task}", unit, True) for task, measure in found.items()]


def _trials(found: Found | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [
        (
            ", ".join(f"{name} = {_plain(value)}" for name, value in trial.changes.items()),
            trial.failure or decimal(trial.validation_bits_per_byte, 4),
        )
        for trial in found.trials
    ]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(value: Estimate | None) -> float | None:
    return None if value is None else value.mean


def _share(value: Estimate | None) -> str:
    return percent(_mean(value), 1)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    return f"{seconds:.0f}{SPACE}s" if seconds < 120 else f"{seconds / 60:.1f}{SPACE}min"
