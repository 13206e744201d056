"""Champion, challenger and the way back, in a real MLflow store; two promoters at once, in processes."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
from promotion_runs import candidates, promote_one

from distillation.errors import PromotionError
from tracking.aliases import roll_back, settle_aliases
from tracking.registry import CHAMPION, current_champion
from tracking.runs import Recorder
from tracking.versions import mark_retired, read_aliases, read_versions

ROUNDS = 20


def test_winner_and_loser_get_their_aliases(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "aliases"
    client = promotion_store.client
    first = promote_one(promotion_store, runs["middle"], name)
    assert first.is_champion
    assert read_aliases(client, name) == {"champion": 1}
    lost = promote_one(promotion_store, runs["worse"], name)
    assert (lost.version, lost.champion) == (2, 1)
    assert read_aliases(client, name) == {"champion": 1, "challenger": 2}
    won = promote_one(promotion_store, runs["better"], name)
    assert won.is_champion
    assert read_aliases(client, name) == {"champion": 3}
    tags = client.get_model_version(name, "3").tags
    assert tags["gate"] == "passed"
    assert tags["replaced"] == "1"
    assert tags["run_name"] == "better"
    assert tags["run_id"] == runs["better"].run_id
    assert tags["held_out"] == "set-a"
    assert tags["distilled.bits_per_byte"] == "1.8"
    assert len(tags["weights"]) == 16


def test_a_student_judged_twice_has_one_version(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "twice"
    promote_one(promotion_store, runs["better"], name)
    for _ in range(2):
        lost = promote_one(promotion_store, runs["worse"], name)
        assert (lost.version, lost.champion) == (2, 1)
    assert [one.number for one in read_versions(promotion_store.client, name)] == [1, 2]


def test_a_gain_below_the_margin_is_not_crowned_by_a_later_promotion(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "margin"
    promote_one(promotion_store, runs["middle"], name, champion_margin=0.05)
    assert not promote_one(promotion_store, runs["better"], name, champion_margin=0.05).is_champion
    assert not promote_one(promotion_store, runs["worse"], name, champion_margin=0.05).is_champion
    assert promote_one(promotion_store, runs["best"], name, champion_margin=0.05).is_champion
    assert roll_back(promotion_store, name).champion.run_name == "middle"


def test_rollback_goes_back_one_by_one_and_what_is_retired_stays_so(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "rollback"
    client = promotion_store.client
    for run in ("worse", "middle", "better"):
        assert promote_one(promotion_store, runs[run], name).is_champion
    done = roll_back(promotion_store, name)
    assert (done.retired.number, done.champion.number) == (3, 2)
    assert read_aliases(client, name) == {"champion": 2}
    assert client.get_model_version(name, "3").tags["retired"] == done.retired.retired
    assert settle_aliases(promotion_store, name).number == 2  # nothing brings it back
    with pytest.raises(PromotionError, match=r"version 3 of it was rolled back at 2.*tag 'retired'"):
        promote_one(promotion_store, runs["better"], name)
    marked = {run.run_name: run.retired for run in mark_retired(promotion_store, list(runs.values()), name)}
    assert marked["better"].startswith("version 3 was rolled back at")
    assert {marked["worse"], marked["middle"]} == {""}

    done = roll_back(promotion_store, name)
    assert (done.retired.number, done.champion.number) == (2, 1)
    with pytest.raises(PromotionError, match="nothing to go back to, version 1") as caught:
        roll_back(promotion_store, name)
    assert "\n" not in str(caught.value)
    champion = current_champion(promotion_store, name)
    assert champion is not None
    assert champion.run_name == "worse"

    assert promote_one(promotion_store, runs["best"], name).is_champion
    assert roll_back(promotion_store, name).champion.number == 1


def test_without_a_champion_there_is_nothing_to_roll_back(promotion_store: Recorder) -> None:
    with pytest.raises(PromotionError, match="model_name = nobody: there is no champion"):
        roll_back(promotion_store, "nobody")


def test_a_challenger_becomes_champion_once_the_champion_is_gone(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "heir"
    promote_one(promotion_store, runs["worse"], name)
    promote_one(promotion_store, runs["better"], name)
    assert not promote_one(promotion_store, runs["middle"], name).is_champion
    assert roll_back(promotion_store, name).champion.number == 1  # who was champion, not who never was
    assert read_aliases(promotion_store.client, name) == {"champion": 1, "challenger": 3}
    again = promote_one(promotion_store, runs["middle"], name)
    assert (again.version, again.champion) == (3, 3)


def test_the_first_registered_decides_between_two_held_out_sets(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "sets"
    promote_one(promotion_store, runs["worse"], name)
    lost = promote_one(promotion_store, runs["other-set"], name)  # as if both had seen no champion
    assert (lost.version, lost.champion) == (2, 1)
    assert read_aliases(promotion_store.client, name) == {"champion": 1}


def test_a_champion_of_an_early_release_is_adopted(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "early"
    client = promotion_store.client
    client.create_registered_model(name)
    client.create_model_version(name, source="somewhere", run_id=runs["middle"].run_id)
    client.set_registered_model_alias(name, CHAMPION, "1")
    lost = promote_one(promotion_store, runs["worse"], name)
    assert (lost.version, lost.champion) == (2, 1)
    assert promote_one(promotion_store, runs["better"], name).is_champion
    assert roll_back(promotion_store, name).champion.number == 1


def test_an_alias_that_a_late_promoter_left_behind_is_set_right(promotion_store: Recorder) -> None:
    runs, name = candidates(promotion_store), "late"
    promote_one(promotion_store, runs["worse"], name)
    promote_one(promotion_store, runs["better"], name)
    promotion_store.client.set_registered_model_alias(name, CHAMPION, "1")
    assert settle_aliases(promotion_store, name).number == 2
    assert read_aliases(promotion_store.client, name) == {"champion": 2}


def test_a_promoter_that_is_overtaken_before_it_sets_the_alias_sets_it_right(
    promotion_store: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, name = candidates(promotion_store), "overtaken"
    slow = Recorder(promotion_store.uri, promotion_store.experiment)
    original = slow.client.set_registered_model_alias
    set_by_slow = []

    def overtaken(model_name: str, alias: str, number: str) -> None:
        if not set_by_slow:  # it has chosen its own student; before it says so, the better one is promoted
            assert promote_one(promotion_store, runs["better"], name).is_champion
        set_by_slow.append(number)
        original(model_name, alias, number)

    monkeypatch.setattr(slow.client, "set_registered_model_alias", overtaken)
    lost = promote_one(slow, runs["worse"], name)
    assert (lost.version, lost.champion) == (1, 2)
    assert set_by_slow == ["1", "2"]  # the outdated one, and what it saw when it looked again
    assert read_aliases(promotion_store.client, name) == {"champion": 2}


def test_a_rollback_that_is_undone_by_a_late_promoter_is_done_again(
    promotion_store: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, name = candidates(promotion_store), "undone"
    promote_one(promotion_store, runs["worse"], name)
    promote_one(promotion_store, runs["better"], name)
    recorder = Recorder(promotion_store.uri, promotion_store.experiment)
    original, num_set = recorder.client.set_registered_model_alias, []

    def undone(model_name: str, alias: str, number: str) -> None:
        original(model_name, alias, number)
        if not num_set:
            promotion_store.client.set_registered_model_alias(name, CHAMPION, "2")
        num_set.append(number)

    monkeypatch.setattr(recorder.client, "set_registered_model_alias", undone)
    assert roll_back(recorder, name).champion.number == 1
    assert num_set == ["1", "1"]
    assert read_aliases(promotion_store.client, name) == {"champion": 1}


def _promote_in_rounds(uri: str, run: str, barrier: Any, answers: Any) -> None:
    """A promoter in a process of its own: one student, a new registered model each round."""
    sys.path.insert(0, str(Path(__file__).parent))
    recorder = Recorder(uri, "runs")
    candidate = candidates(recorder)[run]
    for number in range(ROUNDS):
        barrier.wait(timeout=120)
        standing = promote_one(recorder, candidate, f"race-{number}")
        answers.put((number, run, standing.version, standing.champion))


@pytest.mark.slow
def test_two_promotions_at_once_leave_one_champion_the_better_one(promotion_store: Recorder) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_promote_in_rounds, args=(promotion_store.uri, run, barrier, answers))
        for run in ("worse", "better")
    ]
    for worker in workers:
        worker.start()
    told = [answers.get(timeout=180) for _ in range(2 * ROUNDS)]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0

    for number in range(ROUNDS):
        name = f"race-{number}"
        versions = {one.run_name: one for one in read_versions(promotion_store.client, name)}
        assert set(versions) == {"worse", "better"}
        assert sorted(one.number for one in versions.values()) == [1, 2]
        better = versions["better"].number
        # Which of the two came first differs; where the worse was second it stays as challenger.
        expected = {"champion": better} | ({"challenger": 2} if better == 1 else {})
        assert read_aliases(promotion_store.client, name) == expected
        [champion] = [one[3] for one in told if one[:2] == (number, "better")]
        assert champion == better
