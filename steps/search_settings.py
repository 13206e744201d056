"""Step `search_settings`: Optuna looks for better settings; what it finds becomes one more variant."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from zenml import step

from distillation.config import Changes, ComparisonSettings
from distillation.errors import SearchError, one_line
from distillation.experiment.search import Found, Trial
from steps.console import hide_loading_bars
from steps.types import Corpus

_LOG = logging.getLogger(__name__)


@step(enable_cache=False)
def search_settings(
    corpus: Corpus, settings: ComparisonSettings, fingerprint: str
) -> Annotated[Found, "found"]:
    """Run the trials that are missing; `fingerprint` stands for the files of both models.

    A search in which every trial failed is a variant that failed: it is reported, and the others finish.
    """
    from rich.console import Console

    from distillation.experiment.search import search
    from distillation.sources import digest_of_sources

    chosen = settings.comparison.search
    assert chosen is not None
    hide_loading_bars(settings.models)
    console = Console()

    def tell(number: int, trial: Trial) -> None:
        bits = trial.validation_bits_per_byte
        outcome = trial.failure if bits is None else f"{bits:.4f} bits per byte on validation documents"
        console.print(f"trial {number + 1}: {trial.changes}: {outcome}", highlight=False, markup=False)

    base = settings.model_dump(mode="json", exclude={"comparison", "evaluation", "tracking", "seed"})
    code = digest_of_sources("distillation.experiment.student")
    key = [base, corpus.report.train_fingerprint, fingerprint, code]
    try:
        return search(chosen, lambda changes: _train(corpus, settings, changes), key=key, on_trial=tell)
    except SearchError as error:
        _LOG.error("%s", one_line(error))
        return Found(failure=one_line(error))


def _train(corpus: Corpus, settings: ComparisonSettings, changes: Changes) -> float:
    """Train the student of one trial and return its validation bits per byte."""
    from distillation.config import FOUND, change_settings
    from distillation.experiment.plan import Entry
    from distillation.experiment.result import VALIDATION_BITS
    from distillation.experiment.student import prepare_student, training_figures
    from distillation.training.run import run_job

    assert settings.comparison.search is not None
    seed = settings.comparison.search.seed
    entry = Entry(
        variant=FOUND, seed=seed, kind="distilled", settings=change_settings(settings, changes, seed=seed)
    )
    job_dir: Path = prepare_student(corpus, entry)
    return training_figures(job_dir, run_job(job_dir, name="trial").metrics)[VALIDATION_BITS]
