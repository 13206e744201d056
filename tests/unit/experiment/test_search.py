"""A search finds the minimum, survives failing trials, and goes on after a kill where it stopped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillation.config import SearchSettings
from distillation.errors import SearchError
from distillation.experiment.search import Trial, search

SPACE: dict[str, Any] = {
    "training.learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "alignment.strategy": ["prefix", "shared"],
    "training.batch_size": {"low": 1, "high": 8, "integer": True},
    "objective.terms": [{"forward_kl": 1.0}, {"reverse_kl": 1.0}],
}


def settings(folder: Path, **changes: Any) -> SearchSettings:
    return SearchSettings.model_validate(
        {"space": SPACE, "output_dir": str(folder), "num_trials": 30, **changes}
    )


def bowl(changes: dict[str, Any]) -> float:
    """Lowest at a learning rate of 0.01, `shared` and batches of 4."""
    distance = (math.log10(changes["training.learning_rate"]) + 2) ** 2
    return (
        2.0 + distance + (changes["alignment.strategy"] != "shared") + abs(changes["training.batch_size"] - 4)
    )


def test_the_best_trial_is_near_the_minimum(tmp_path: Path) -> None:
    told: list[Trial] = []
    found = search(settings(tmp_path), bowl, key="a", on_trial=lambda number, trial: told.append(trial))
    assert len(found.trials) == len(told) == 30
    assert found.changes["alignment.strategy"] == "shared"
    assert found.validation_bits_per_byte < 3.0
    assert found.validation_bits_per_byte == min(one.validation_bits_per_byte for one in found.trials)
    assert found.changes["objective.terms"] in SPACE["objective.terms"]
    assert isinstance(found.changes["training.batch_size"], int)
    assert sum(found.importances.values()) == pytest.approx(1.0)
    # Nothing is left to do: the same answer, and nobody is trained.
    again = search(settings(tmp_path), lambda changes: pytest.fail("trained again"), key="a")
    assert again == found


def test_another_corpus_or_space_is_another_study(tmp_path: Path) -> None:
    small = settings(tmp_path, num_trials=2)
    search(small, bowl, key="a")
    calls: list[Any] = []
    search(small, lambda changes: calls.append(changes) or 1.0, key="b")
    assert len(calls) == 2


def test_a_failing_trial_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    def fragile(changes: dict[str, Any]) -> float:
        if changes["alignment.strategy"] == "prefix":
            raise RuntimeError("out of\nmemory")
        return bowl(changes)

    found = search(settings(tmp_path, num_trials=12), fragile, key="a")
    failures = [trial for trial in found.trials if trial.failure is not None]
    assert failures
    assert all(trial.failure == "out of memory" for trial in failures)
    assert all(trial.validation_bits_per_byte is None for trial in failures)
    assert found.changes["alignment.strategy"] == "shared"

    def hopeless(changes: dict[str, Any]) -> float:
        raise RuntimeError("no")

    with pytest.raises(SearchError, match=r"none of 3 trials succeeded, the last: no"):
        search(settings(tmp_path, num_trials=3), hopeless, key="hopeless")
    # Once more, as the machine may have been at fault, and now one of the trials succeeds.
    values = iter([math.nan, 2.5, math.nan])
    found = search(settings(tmp_path, num_trials=3), lambda changes: next(values), key="hopeless")
    assert found.validation_bits_per_byte == 2.5
    assert sum(trial.failure == "training diverged: nan bits per byte" for trial in found.trials) == 2


def test_a_killed_search_tries_the_interrupted_trial_again_first(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import json, os, sys\n"
        "from distillation.experiment.search import search\n"
        "from distillation.config import SearchSettings\n"
        "settings = SearchSettings.model_validate(json.loads(sys.argv[1]))\n"
        "seen = []\n"
        "def train(changes):\n"
        "    seen.append(changes)\n"
        "    if len(seen) == 3:\n"
        "        print(json.dumps(changes), flush=True)\n"
        "        os._exit(9)\n"
        "    return 2.0 + len(seen)\n"
        "search(settings, train, key='a')\n"
    )
    chosen = settings(tmp_path / "studies", num_trials=5)
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, str(script), chosen.model_dump_json()],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9, done.stderr
    interrupted = json.loads(done.stdout.splitlines()[-1])
    trained: list[dict[str, Any]] = []

    def train(changes: dict[str, Any]) -> float:
        trained.append(changes)
        return 1.0

    found = search(chosen, train, key="a")
    assert trained[0] == interrupted
    assert len(trained) == 3  # two of five were finished
    assert len(found.trials) == 5
