"""What a pipeline says at the end, fresh or wholly from the cache: the table, the report, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.config import ComparisonSettings, PromotionSettings, Settings
from distillation.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from zenml.models import PipelineRunResponse, StepRunResponse


def show_distillation(run: PipelineRunResponse, settings: Settings) -> None:
    """Print the summary table, where the report is, and the commands that come next."""
    from rich.console import Console

    from distillation.report.terminal import summary_table

    step = run.steps["evaluate_student"]
    evaluation = _artifact(step.outputs["evaluation"])
    report = _write_report(step, settings, "report.html")
    num_cached = sum(one.status.value == "cached" for one in run.steps.values())
    if step.status.value == "cached" and num_cached < len(run.steps):
        from tracking.records.recording import close_reused_run

        close_reused_run(str(run.id), settings.tracking)
    console = Console()
    console.print()
    console.print(summary_table(evaluation))
    console.print(f"{num_cached} of {len(run.steps)} steps came from the cache.", highlight=False)
    _show_corpus(console, run)
    _show_next(console, report)


def show_comparison(run: PipelineRunResponse, settings: ComparisonSettings) -> None:
    """Print the table of the variants, what failed, where the report is, and the commands that come next."""
    from rich.console import Console

    from distillation.report.comparison_terminal import comparison_table

    step = run.steps["compare_variants"]
    comparison = _artifact(step.outputs["comparison"])
    report = _write_report(step, settings, "comparison.html")
    console = Console()
    console.print()
    console.print(comparison_table(comparison))
    _show_corpus(console, run)
    for failure in comparison.failures:
        console.print(f"Failed: {failure}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    _show_next(console, report)


def show_promotion(run: PipelineRunResponse, settings: PromotionSettings) -> None:
    """Print which version is the champion now, every line of the gate, and how to load it."""
    from tracking.publishing import how_to_load

    promoted = _artifact(run.steps["promote_student"].outputs["promotion"])
    publication = _artifact(run.steps["publish_student"].outputs["publication"])
    uri = f"models:/{promoted.model_name}@champion"
    print_lines(
        [
            f"Promoted: run {promoted.run_name} is {uri} (version {promoted.version}).",
            *(f"  {line.condition}: {line.figures}" for line in promoted.lines),
            "",
            *how_to_load(promoted.model_name, promoted.tracking_uri, publication),
        ]
    )


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as they are, after an empty one: to be read, or copied into a shell."""
    from rich.console import Console

    console = Console()
    console.print()
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_corpus(console: Console, run: PipelineRunResponse) -> None:
    """Print which text the figures are of, and loudly what was given and could not be used."""
    report = _artifact(run.steps["load_corpus"].outputs["corpus_report"])
    options: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    console.print(f"Corpus: {report.sentence}.", **options)
    for warning in report.warnings:
        console.print(f"Corpus: {warning}", style="bold yellow", **options)


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


def _write_report(step: StepRunResponse, settings: Settings, name: str) -> Path:
    """Write the page of a step beside the jobs and return where it is."""
    report = Path(settings.training.output_dir).parent / name
    report.parent.mkdir(parents=True, exist_ok=True)  # where all steps are cached nothing else has made it
    write_atomically(report, str(_artifact(step.outputs["report"])).encode())
    return report


def _artifact(versions: Any) -> Any:
    """Return the content of a step's output."""
    version = versions[0] if isinstance(versions, list) else versions
    return version.load()
