"""The aliases `champion` and `challenger`: who gets them, also with several promoters, and the way back.

MLflow has no compare-and-set, and a lock would hold on one machine only. So nobody decides from what he knew
when he began. Each promoter

1. registers its student as a version (numbered by the server, with its judgement, in one transaction);
2. reads the aliases, *then* the versions, computes the champion by right (`lineage`, a pure function of the
   versions), and stops if the aliases stand there already;
3. sets them otherwise, and goes back to 2.

Why the alias ends on the right version: look at the last time that anybody sets it, X. X goes back to 2 and
stops only if the alias is right for all versions that X sees then. A version that X did not see was
registered later; its promoter passes 2 after that and finds the alias where X left it, as nobody sets it any
more. If that were wrong for the versions that it sees, it would set it, and X was not the last. The promoter
that registered last sees every version. So the alias is right for all versions.

Why it ends: once the last version is registered all compute the same champion, and each promoter can set an
outdated one at most once more. A promoter that dies between 1 and 3 leaves work that the next one finishes.
It needs a registry that reads what was written (one database does; a lagging read replica does not).

A version that is rolled back is tagged as retired, which takes it out of the lineage, so that no promoter
brings it back. To let it compete again, delete that tag.
"""

from __future__ import annotations

import datetime
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict

from distillation.errors import PromotionError, TrackingError
from distillation.quiet import at_level
from tracking.registry import CHALLENGER, CHAMPION, has_code
from tracking.runs import Recorder
from tracking.server import tracking_errors
from tracking.versions import (
    REPLACED_TAG,
    RETIRED_TAG,
    Version,
    challenger_of,
    figure_reader,
    lineage,
    read_aliases,
    read_versions,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_ATTEMPTS = 40
_MAX_PAUSE = 0.5  # seconds
_BUSY = ("TEMPORARILY_UNAVAILABLE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INTERNAL_ERROR")
_STORE_LOGGER = "mlflow.store.db.utils"
Result = TypeVar("Result")


class RolledBack(BaseModel):
    """What a rollback did."""

    model_config = ConfigDict(frozen=True)

    retired: Version
    champion: Version


def settle_aliases(recorder: Recorder, model_name: str) -> Version:
    """Set both aliases to where the versions say, until they are seen there; return the champion.

    Raises:
        PromotionError: no version passed the gate, or the aliases do not come to rest.
        TrackingError: the server failed.
    """
    client = recorder.client
    figure = figure_reader(client)
    with tracking_errors(recorder.uri):
        for _ in range(_MAX_ATTEMPTS):
            aliases = patiently(lambda: read_aliases(client, model_name))
            versions = patiently(lambda: read_versions(client, model_name))
            chain = lineage(versions, figure)
            if not chain:
                raise PromotionError(f"model_name = {model_name}: no version of it has passed the gate")
            if not _set_aliases(client, model_name, aliases, versions, chain):
                return chain[-1]
    raise PromotionError(
        f"model_name = {model_name}: the alias {CHAMPION} does not come to rest, somebody sets it again and "
        "again; see who does, then promote again"
    )


def roll_back(recorder: Recorder, model_name: str) -> RolledBack:
    """Retire the champion and give its alias to the version that it replaced.

    Raises:
        PromotionError: there is no champion, or none before it.
        TrackingError: the server failed.
    """
    client = recorder.client
    with tracking_errors(recorder.uri):
        aliases = read_aliases(client, model_name)
        if CHAMPION not in aliases:
            raise PromotionError(
                f"model_name = {model_name}: there is no champion to roll back; promote a student first"
            )
        versions = read_versions(client, model_name)
        champion = next((one for one in versions if one.number == aliases[CHAMPION]), None)
        target = champion and _before(champion, versions, figure_reader(client))
        if champion is None or target is None:
            raise PromotionError(
                f"model_name = {model_name}: nothing to go back to, version {aliases[CHAMPION]} has replaced "
                "no version that still stands; promote another student instead"
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        patiently(lambda: client.set_model_version_tag(model_name, str(champion.number), RETIRED_TAG, now))
        _restore(client, model_name, target)
    return RolledBack(retired=champion.model_copy(update={"retired": now}), champion=target)


def patiently(action: Callable[[], Result]) -> Result:
    """Return what `action` returns; if the registry is busy with another's write, try again for a while.

    Raises:
        MlflowException: the last failure, or one that waiting does not mend.
    """
    from mlflow.exceptions import MlflowException

    with at_level(logging.CRITICAL, _STORE_LOGGER):  # it would print a traceback at each attempt
        for attempt in range(1, _MAX_ATTEMPTS):
            try:
                return action()
            except MlflowException as error:
                if not has_code(error, *_BUSY) or not _is_collision(error):
                    raise
                time.sleep(random.uniform(0, min(_MAX_PAUSE, 0.02 * attempt)))
        return action()


def _is_collision(error: Exception) -> bool:
    text = str(error).lower()
    return any(
        words in text for words in ("locked", "unique constraint", "duplicate", "deadlock", "serializ")
    )


def _set_aliases(
    client: MlflowClient,
    model_name: str,
    aliases: dict[str, int],
    versions: Sequence[Version],
    chain: Sequence[Version],
) -> bool:
    """Set what stands elsewhere; return whether anything did."""
    champion = chain[-1]
    before = aliases.get(CHAMPION)
    is_changed = _set_challenger(client, model_name, aliases, versions, champion)
    if before == champion.number:
        return is_changed
    standing = {one.number for one in versions if not one.retired}
    if before is None or before not in standing or before > champion.number:
        before = chain[-2].number if len(chain) > 1 else None
    if before is not None:
        replaced = str(before)
        patiently(
            lambda: client.set_model_version_tag(model_name, str(champion.number), REPLACED_TAG, replaced)
        )
    patiently(lambda: client.set_registered_model_alias(model_name, CHAMPION, str(champion.number)))
    return True


def _set_challenger(
    client: MlflowClient,
    model_name: str,
    aliases: dict[str, int],
    versions: Sequence[Version],
    champion: Version,
) -> bool:
    challenger = challenger_of(versions, champion)
    number = challenger.number if challenger else None
    if aliases.get(CHALLENGER) == number:
        return False
    if number is None:
        patiently(lambda: client.delete_registered_model_alias(model_name, CHALLENGER))
    else:
        patiently(lambda: client.set_registered_model_alias(model_name, CHALLENGER, str(number)))
    return True


def _before(champion: Version, versions: Sequence[Version], figure: Callable) -> Version | None:
    """Return the standing version that `champion` replaced, or what came before it in the lineage."""
    by_number = {one.number: one for one in versions}
    number = champion.replaced
    while number is not None and number in by_number:
        found = by_number[number]
        if not found.retired and found.number < champion.number:
            return found
        number = found.replaced if found.replaced is not None and found.replaced < number else None
    earlier = [one for one in lineage(versions, figure) if one.number < champion.number]
    return earlier[-1] if earlier else None


def _restore(client: MlflowClient, model_name: str, target: Version) -> None:
    """Set the alias to `target` until it stands on no retired version, and the challenger's with it."""
    for _ in range(_MAX_ATTEMPTS):
        patiently(lambda: client.set_registered_model_alias(model_name, CHAMPION, str(target.number)))
        aliases = patiently(lambda: read_aliases(client, model_name))
        versions = patiently(lambda: read_versions(client, model_name))
        retired = {one.number for one in versions if one.retired}
        if aliases.get(CHAMPION) not in retired:
            if aliases.get(CHAMPION) == target.number:  # else a promoter is at work, and sets both
                _set_challenger(client, model_name, aliases, versions, target)
            return
    raise TrackingError(
        f"model_name = {model_name}: the alias {CHAMPION} returns to a version that was rolled back; "
        "see who sets it, then roll back again"
    )
