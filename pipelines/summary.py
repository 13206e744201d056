"""What a pipeline says at the end, fresh or wholly from the cache: the table, the report, what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.config import ComparisonSettings, PromotionSettings, Settings

if TYPE_CHECKING:
    from rich.console import Console
    from zenml.models import PipelineRunResponse


def show_distillation(run: PipelineRunResponse, settings: Settings) -> None:
    """Print the summary table, where the report is, and the commands that come next."""
    from rich.console import Console

    from distillation.report import summary_table

    step = run.steps["evaluate_student"]
    evaluation = _artifact(step.outputs["evaluation"])
    report = Path(settings.training.output_dir).parent / "report.html"
    report.write_text(str(_artifact(step.outputs["report"])), encoding="utf-8")

    num_cached = sum(one.status.value == "cached" for one in run.steps.values())
    if step.status.value == "cached" and num_cached < len(run.steps):
        from steps.recording import close_reused_run

        close_reused_run(str(run.id), settings.tracking)
    console = Console()
    console.print()
    console.print(summary_table(evaluation))
    console.print(f"{num_cached} of {len(run.steps)} steps came from the cache.", highlight=False)
    _show_next(console, report)


def show_comparison(run: PipelineRunResponse, settings: ComparisonSettings) -> None:
    """Print the table of the variants, what failed, where the report is, and the commands that come next."""
    from rich.console import Console

    from distillation.report.comparison_terminal import comparison_table

    step = run.steps["compare_variants"]
    comparison = _artifact(step.outputs["comparison"])
    report = Path(settings.training.output_dir).parent / "comparison.html"
    report.write_text(str(_artifact(step.outputs["report"])), encoding="utf-8")
    console = Console()
    console.print()
    console.print(comparison_table(comparison))
    for failure in comparison.failures:
        console.print(f"Failed: {failure}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    _show_next(console, report)


def show_promotion(run: PipelineRunResponse, settings: PromotionSettings) -> None:
    """Print which version is the champion now and how to load it."""
    from rich.console import Console

    promoted = _artifact(run.steps["promote_student"].outputs["promotion"])
    console = Console()
    console.print()
    for line in promoted.summary():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_next(console: Console, report: Path) -> None:
    """Print what a user does next."""
    next_lines = (
        ("Read the report", str(report)),
        ("Compare runs", "make ui"),
        ("Promote the best run", "make promote"),
    )
    console.print()
    for title, command in next_lines:
        console.print(f"{title + ':':<22}{command}", highlight=False, markup=False, soft_wrap=True)


def _artifact(versions: Any) -> Any:
    """Return the content of a step's output."""
    version = versions[0] if isinstance(versions, list) else versions
    return version.load()
