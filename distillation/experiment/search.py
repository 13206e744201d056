"""A search for settings with Optuna: each trial is a student, judged on the validation documents.

The study is a journal on disk, so that a search that was killed goes on: finished trials count, and the one
that was interrupted is tried again first, where its job directory goes on from its last checkpoint. A trial
that fails is recorded and the search goes on. Held-out test documents play no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from distillation.config import Changes, Range, SearchSettings
from distillation.errors import SearchError, one_line
from distillation.fingerprint import digest_of

if TYPE_CHECKING:
    import optuna

MIN_TRIALS = 8
"""Fewer trials say nothing about which setting mattered."""


class Trial(BaseModel):
    """One student of a search."""

    model_config = ConfigDict(frozen=True)

    changes: dict[str, Any]
    validation_bits_per_byte: float | None
    """None for a trial that failed."""
    failure: str | None = None


class Found(BaseModel):
    """What a search found."""

    model_config = ConfigDict(frozen=True)

    changes: dict[str, Any] = {}
    """The best trial's settings."""
    validation_bits_per_byte: float | None = None
    trials: tuple[Trial, ...] = ()
    failure: str | None = None
    """Why nothing was found."""
    importances: dict[str, float] = {}
    """Share of the spread of the trials that each setting explains (fANOVA); empty for few trials."""


def search(
    settings: SearchSettings,
    train: Callable[[Changes], float],
    *,
    key: Any,
    on_trial: Callable[[int, Trial], None] = lambda number, trial: None,
) -> Found:
    """Run the trials that are missing and return the best settings.

    Args:
        settings: the space and the number of trials.
        train: trains a student with the changes and returns its validation bits per byte.
        key: what the trials depend on besides their changes; another key is another study.
        on_trial: told the number and the result of each trial.

    Raises:
        SearchError: no trial succeeded.
    """
    study = _open_study(settings, key)
    # Trials that failed count, or each run would train them again; unless there is nothing else.
    ended = _finished(study)
    missing = settings.num_trials - (len(ended) if any(trial.values for trial in ended) else 0)
    if missing > 0:
        study.optimize(
            lambda trial: _objective(trial, settings, train),
            n_trials=missing,
            catch=(Exception,),
            callbacks=[lambda study, trial: on_trial(trial.number, _as_trial(trial))],
        )
    trials = tuple(_as_trial(trial) for trial in _finished(study))
    able = [trial for trial in trials if trial.validation_bits_per_byte is not None]
    if not able:
        reason = trials[-1].failure if trials else "no trial"
        raise SearchError(f"comparison.search: none of {len(trials)} trials succeeded, the last: {reason}")
    best = min(able, key=lambda trial: trial.validation_bits_per_byte or 0.0)
    return Found(
        changes=best.changes,
        validation_bits_per_byte=best.validation_bits_per_byte or 0.0,
        trials=trials,
        importances=_importances(study, len(able)),
    )


def _open_study(settings: SearchSettings, key: Any) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = settings.model_dump(mode="json", include={"space", "seed"})
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest_of([space, key])}.journal"
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(path))),
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(
            seed=settings.seed, n_startup_trials=min(10, settings.num_trials // 2)
        ),
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=optuna.trial.TrialState.PRUNED)
    return study


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))


def _objective(trial: optuna.Trial, settings: SearchSettings, train: Callable[[Changes], float]) -> float:
    changes = {name: _suggest(trial, name, choices) for name, choices in settings.space.items()}
    trial.set_user_attr("changes", changes)
    try:
        bits = train(changes)
        if not math.isfinite(bits):
            raise SearchError(f"training diverged: {bits} bits per byte")
    except Exception as error:
        trial.set_user_attr("failure", one_line(error))
        raise
    return bits


def _suggest(trial: optuna.Trial, name: str, choices: Range | tuple[Any, ...]) -> Any:
    if not isinstance(choices, Range):
        # By index: Optuna keeps plain values only, and a choice may be a mapping.
        return choices[trial.suggest_categorical(name, list(range(len(choices))))]
    if choices.integer:
        return trial.suggest_int(name, int(choices.low), int(choices.high), log=choices.log)
    return trial.suggest_float(name, choices.low, choices.high, log=choices.log)


def _as_trial(trial: optuna.trial.FrozenTrial) -> Trial:
    return Trial(
        changes=trial.user_attrs.get("changes", {}),
        validation_bits_per_byte=trial.value if trial.values else None,
        failure=trial.user_attrs.get("failure"),
    )


def _importances(study: optuna.Study, num_trials: int) -> dict[str, float]:
    """Return the share of each setting; too few trials, or trials that are all alike, say nothing."""
    import optuna

    values = {trial.value for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))}
    if num_trials < MIN_TRIALS or len(values) < 2:
        return {}
    return dict(optuna.importance.get_param_importances(study))
