"""Tasks through lm-evaluation-harness (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness).

The library makes the prompts, asks the model through `HarnessModel`, and computes the measures. Tasks are
made once and then asked of every model, so that all see the same items and the same examples. Data sets of
the hub are cached where `datasets` keeps them, the others nowhere; no process is forked, and random states
are left as they were.

A task that cannot be run (the hub is out of reach, the documents are too few) is a result with a reason and
without a value: students that took an hour to train are not lost over it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from distillation.config import EMBEDDED_TASKS, EvaluationSettings
from distillation.errors import one_line, shorten
from distillation.evaluation.undisturbed import SEED, undisturbed

_LOG = logging.getLogger(__name__)
PARTS = 1000
"""Steps of the progress of one task."""
CHOICE_MEASURES = ("acc", "acc_norm", "acc_bytes")
"""Measures of a multiple choice whose value for a guess is known."""


class TaskResult(BaseModel):
    """One measure of one task, of one model; or why the task was not run."""

    model_config = ConfigDict(frozen=True)

    name: str
    """As it stands in `evaluation.tasks`; of a group without a figure of its own, its member."""
    metric: str = ""
    """lm-eval's name of the measure, with the filter of the answer behind a dot where there is one."""
    value: float | None = None
    """None if the task was not run."""
    standard_error: float | None = None
    """Of the mean over items; None for a measure that is no mean."""
    num_items: int = 0
    chance: float | None = None
    """Expected value of a guess; None where it is not known."""
    higher_is_better: bool = True
    reason: str | None = None
    """Why the task was not run, one line."""

    @property
    def is_share(self) -> bool:
        """Whether the value is a share of items that are right."""
        return self.metric.startswith(("acc", "exact_match")) and self.value is not None


@dataclass(frozen=True)
class PreparedTasks:
    """Tasks that are ready to be asked of one model after another."""

    loaded: dict[str, Any]
    """By the name in the settings: what lm-eval's `evaluate` takes."""
    reasons: dict[str, str]
    """Why each of the other tasks cannot be run."""
    names: tuple[str, ...]
    limit: int


@contextlib.contextmanager
def prepared_tasks(
    texts: Sequence[str], settings: EvaluationSettings, *, hub_timeout: float = 5.0
) -> Iterator[PreparedTasks]:
    """Yield the tasks of `settings`, the embedded ones made from the held-out `texts`.

    What cannot be prepared is warned of once, here.

    Raises:
        SettingsError: a task is unknown, or `task_dir` is faulty.
    """
    with tempfile.TemporaryDirectory(prefix="tasks-") as folder:
        tasks = PreparedTasks({}, {}, settings.tasks, settings.task_limit)
        if settings.tasks:
            with undisturbed():
                _prepare_embedded(tasks, texts, Path(folder))
                _prepare_others(tasks, settings, hub_timeout)
        for name, reason in tasks.reasons.items():
            _LOG.warning("task %s is left out: %s", name, reason)
        yield tasks


def measure_tasks(
    tasks: PreparedTasks,
    model: Any,
    tokenizer: Any,
    *,
    tokens_per_batch: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[TaskResult, ...]:
    """Ask all tasks of `model`; a task that fails has a reason in place of a value.

    Args:
        tasks: what `prepared_tasks` yields.
        model: a causal language model of transformers; its mode (train or eval) is left as it was.
        tokenizer: its fast tokenizer.
        tokens_per_batch: tokens in one forward pass.
        on_progress: told (steps done, steps in all) over all tasks.
    """
    results: list[TaskResult] = []
    progress = _Progress(on_progress, len(tasks.names))
    asked: Any = None
    for name in tasks.names:
        if name in tasks.reasons:
            results.append(TaskResult(name=name, reason=tasks.reasons[name]))
            progress.next_task()
            continue
        try:
            with undisturbed():
                asked = asked or _harness_model(model, tokenizer, tokens_per_batch, progress.requests)
                results += _run(name, tasks.loaded[name], asked, tasks.limit)
        except Exception as error:  # whatever a task's own code raises; the models are not to be lost over it
            reason = f"it failed ({type(error).__name__}: {shorten(one_line(error))})"
            _LOG.warning("task %s of %s: %s", name, getattr(model, "name_or_path", "a model"), reason)
            results.append(TaskResult(name=name, reason=reason))
        progress.next_task()
    return tuple(results)


def _harness_model(
    model: Any, tokenizer: Any, tokens_per_batch: int, tell: Callable[[int, int], None]
) -> Any:
    from distillation.evaluation.harness_model import HarnessModel

    return HarnessModel(model, tokenizer, tokens_per_batch=tokens_per_batch, on_requests=tell)


# ------------------------------------------------------------------------------------- preparing


def _prepare_embedded(tasks: PreparedTasks, texts: Sequence[str], folder: Path) -> None:
    from lm_eval.tasks import TaskManager

    from distillation.evaluation.embedded_tasks import write_embedded_tasks
    from distillation.evaluation.task_folder import bind_files

    written = write_embedded_tasks(
        [name for name in tasks.names if name in EMBEDDED_TASKS], texts, tasks.limit, folder
    )
    tasks.reasons.update(written.reasons)
    if written.names:
        manager = TaskManager(include_path=folder, include_defaults=False)
        bind_files(manager, folder, cache_dir=folder / "cache")
        for name in written.names:
            tasks.loaded[name] = manager.load([name])


def _prepare_others(tasks: PreparedTasks, settings: EvaluationSettings, hub_timeout: float) -> None:
    from distillation.evaluation.task_folder import needs_hub, task_manager

    names = [name for name in tasks.names if name not in EMBEDDED_TASKS]
    if not names:
        return
    manager = task_manager(settings, names)
    why_offline = _hub_problem(hub_timeout) if any(needs_hub(manager, n, settings) for n in names) else None
    for name in names:
        if why_offline is not None and needs_hub(manager, name, settings):
            tasks.reasons[name] = why_offline
            continue
        try:
            tasks.loaded[name] = manager.load([name])
        except Exception as error:  # the hub, the file, the YAML: each library raises its own kinds
            remedy = (
                "; with the hub, or from a file of evaluation.task_dir, it can"
                if needs_hub(manager, name, settings)
                else ""
            )
            tasks.reasons[name] = (
                f"it cannot be loaded ({type(error).__name__}: {shorten(one_line(error))}){remedy}"
            )


def _hub_problem(timeout: float) -> str | None:
    """Return why the hub cannot be used; None if it answers, or if only cached data sets may be used."""
    from huggingface_hub import constants

    from distillation.hub import HubReach

    # Asked first, as the library would try for half a minute, task by task.
    return None if constants.HF_HUB_OFFLINE else HubReach(timeout).why_unreachable()


# --------------------------------------------------------------------------------------- running


class _Progress:
    """Adds up the progress of one task after another."""

    def __init__(self, tell: Callable[[int, int], None] | None, num_tasks: int) -> None:
        self._tell = tell
        self._num_tasks = num_tasks
        self._num_done = 0

    def requests(self, done: int, total: int) -> None:
        if self._tell is not None:
            self._tell(
                PARTS * self._num_done + PARTS * done // max(total, 1), PARTS * max(self._num_tasks, 1)
            )

    def next_task(self) -> None:
        self.requests(1, 1)
        self._num_done += 1


def _run(name: str, loaded: Any, asked: Any, limit: int) -> list[TaskResult]:
    from lm_eval.evaluator import evaluate

    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    found = evaluate(asked, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    groups = loaded.get("groups", {})
    # A group whose members are not averaged, or a tag, stands for its members.
    shown = (
        [name] if name in found["results"] and (name not in groups or groups[name].has_aggregation) else []
    )
    return [
        result
        for one in shown or list(loaded["tasks"])
        for result in _results_of(one, found, loaded["tasks"], groups)
    ]


def _results_of(name: str, found: Any, tasks: dict[str, Any], groups: dict[str, Any]) -> list[TaskResult]:
    members = [one.task_name for one in groups[name].get_all_tasks()] if name in groups else [name]
    samples = [sample for member in members for sample in found["samples"][member]]
    results = []
    for key, value in found["results"][name].items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        values = [sample.get(metric) for sample in samples if sample["filter"] == kind]
        results.append(
            TaskResult(
                name=name,
                metric=metric if kind == "none" else f"{metric}.{kind}",
                value=float(value),
                standard_error=_standard_error(values, float(value)),
                num_items=len(values),
                chance=_chance([tasks[member] for member in members], samples, metric),
                higher_is_better=found["higher_is_better"].get(name, {}).get(metric) is not False,
            )
        )
    return results


def _standard_error(values: Sequence[Any], mean: float) -> float | None:
    """Return the standard error of the mean; None if `mean` is not the values' mean."""
    import numpy as np

    if len(values) < 2 or not all(isinstance(value, int | float) for value in values):
        return None
    array = np.asarray(values, dtype=float)
    if not math.isclose(array.mean(), mean, rel_tol=1e-6, abs_tol=1e-9):
        return None
    return float(array.std(ddof=1) / math.sqrt(len(array)))


def _chance(tasks: Sequence[Any], samples: Sequence[Any], metric: str) -> float | None:
    """Return the mean over items of one in the number of choices."""
    is_known = metric in CHOICE_MEASURES and all(
        task.OUTPUT_TYPE == "multiple_choice" and not getattr(task, "multiple_target", 0) for task in tasks
    )
    if not is_known or not samples:
        return None
    return sum(1 / len(tasks[0].doc_to_choice(sample["doc"])) for sample in samples) / len(samples)
