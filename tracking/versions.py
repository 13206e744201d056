"""Versions of a registered model as the gate sees them, and who of them is champion by right.

A version is made for a student that passed every line of the gate about itself. How it was judged is written
with it, in its tags, in the same transaction. So the registry is a log, and who is champion is a pure
function of it, which every process computes alike:

    lineage: go through the versions that passed and are not retired, in the order of their numbers; the first
    is champion; each later one takes over if it was measured on the same held-out documents and beats the
    champion of then by the margin that it was judged with. The last one that took over is the champion.

A number is given by the server, one by one, so a version's place never changes when others come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from distillation.config import PromotionSettings
from tracking.registry import HELD_OUT_TAG, Candidate, has_code
from tracking.runs import Recorder
from tracking.server import tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

GATE_TAG, PASSED = "gate", "passed"
JUDGEMENT_TAG = "judgement"
RETIRED_TAG = "retired"
REPLACED_TAG = "replaced"
WEIGHTS_TAG = "weights"


class Judgement(BaseModel):
    """By which measure a version was judged. One tag holds it, so that it is never read half written."""

    model_config = ConfigDict(frozen=True)

    metric: str
    value: float
    higher_is_better: bool
    champion_margin: float


class Version(BaseModel):
    """A version that passed the gate."""

    model_config = ConfigDict(frozen=True)

    number: int
    run_id: str
    run_name: str
    held_out_fingerprint: str
    judgement: Judgement
    retired: str
    """When it was rolled back; empty while it may be champion."""
    replaced: int | None
    """The version that was champion before this one; None where none was."""
    weights: str
    """Digest of the registered weight files; empty for versions of early releases."""


Figure = Callable[[Version, str], float | None]


def beats(value: float, other: float, *, margin: float, higher_is_better: bool) -> bool:
    """Return whether `value` is better than `other` by the relative margin, and better at all."""
    sign = -1.0 if higher_is_better else 1.0
    return bool(sign * value <= sign * other - margin * abs(other) and sign * value < sign * other)


def lineage(versions: Sequence[Version], figure: Figure) -> list[Version]:
    """Return the versions that took over, oldest first; the last one is the champion by right.

    Args:
        versions: all versions of a model, in any order; retired ones are left out.
        figure: gives a version's figure of a metric that it was not judged by.
    """
    chain: list[Version] = []
    for version in sorted(versions, key=lambda one: one.number):
        if version.retired:
            continue
        if chain:
            judged, champion = version.judgement, chain[-1]
            other = (
                champion.judgement.value
                if champion.judgement.metric == judged.metric
                else figure(champion, judged.metric)
            )
            if (
                version.held_out_fingerprint != champion.held_out_fingerprint
                or other is None
                or not beats(
                    judged.value,
                    other,
                    margin=judged.champion_margin,
                    higher_is_better=judged.higher_is_better,
                )
            ):
                continue
        chain.append(version)
    return chain


def challenger_of(versions: Sequence[Version], champion: Version) -> Version | None:
    """Return the newest version after the champion that lost to nothing but the champion, or None."""
    later = [
        one
        for one in versions
        if one.number > champion.number
        and not one.retired
        and one.held_out_fingerprint == champion.held_out_fingerprint
    ]
    return max(later, key=lambda one: one.number, default=None)


def judgement_of(candidate: Candidate, settings: PromotionSettings) -> Judgement:
    """Return how `candidate` is judged under `settings`."""
    return Judgement(
        metric=settings.metric,
        value=candidate.metrics[settings.metric],
        higher_is_better=settings.higher_is_better,
        champion_margin=settings.champion_margin,
    )


def judgement_tags(candidate: Candidate, settings: PromotionSettings, weights: str) -> dict[str, str]:
    """Return the tags of a version that passed: for the lineage, and for people who look at the registry."""
    return {
        JUDGEMENT_TAG: judgement_of(candidate, settings).model_dump_json(),
        HELD_OUT_TAG: candidate.held_out_fingerprint,
        WEIGHTS_TAG: weights,
        "run_name": candidate.run_name,
        "run_id": candidate.run_id,
        settings.metric: f"{candidate.metrics[settings.metric]:.6g}",
        GATE_TAG: PASSED,  # last: where tags are set one by one, this one makes the version count
    }


def read_versions(client: MlflowClient, model_name: str) -> list[Version]:
    """Return the versions that passed the gate, retired ones too, in the order of their numbers."""
    found: list[ModelVersion] = []
    page: str | None = None
    while True:
        answer = client.search_model_versions(f"name = '{model_name}'", max_results=1000, page_token=page)
        found += answer
        page = answer.token
        if not page:
            break
    versions = [version for entry in found if (version := _parse(entry)) is not None]
    return sorted(versions, key=lambda one: one.number)


def read_aliases(client: MlflowClient, model_name: str) -> dict[str, int]:
    """Return the version number that each alias stands on; empty where the model does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        aliases: Mapping[str, str] = client.get_registered_model(model_name).aliases
    except MlflowException as error:
        if has_code(error, "RESOURCE_DOES_NOT_EXIST"):
            return {}
        raise
    return {alias: int(number) for alias, number in aliases.items()}


def figure_reader(client: MlflowClient) -> Figure:
    """Return the function that reads a version's figures from its run, each run once."""
    metrics: dict[str, dict[str, float]] = {}

    def read(version: Version, metric: str) -> float | None:
        if version.run_id not in metrics:
            metrics[version.run_id] = dict(client.get_run(version.run_id).data.metrics)
        return metrics[version.run_id].get(metric)

    return read


def mark_retired(recorder: Recorder, runs: Sequence[Candidate], model_name: str) -> list[Candidate]:
    """Return the runs; those whose version was rolled back say so.

    Raises:
        TrackingError: the server failed.
    """
    with tracking_errors(recorder.uri):
        versions = read_versions(recorder.client, model_name)
    standing = {one.run_id for one in versions if not one.retired}
    retired = {
        one.run_id: f"version {one.number} was rolled back at {one.retired}"
        for one in versions
        if one.retired and one.run_id not in standing
    }
    return [run.model_copy(update={"retired": retired.get(run.run_id, "")}) for run in runs]


def _parse(entry: ModelVersion) -> Version | None:
    """Return the version, or None where it did not pass this gate."""
    tags = dict(entry.tags)
    if tags.get(GATE_TAG) != PASSED:
        return None
    try:
        judgement = Judgement.model_validate_json(tags.get(JUDGEMENT_TAG, ""))
    except ValidationError:  # tags that someone edited: such a version is not ranked
        return None
    return Version(
        number=int(entry.version),
        run_id=entry.run_id or "",
        run_name=tags.get("run_name", ""),
        held_out_fingerprint=tags.get(HELD_OUT_TAG, ""),
        judgement=judgement,
        retired=tags.get(RETIRED_TAG, ""),
        replaced=int(tags[REPLACED_TAG]) if tags.get(REPLACED_TAG, "").isdigit() else None,
        weights=tags.get(WEIGHTS_TAG, ""),
    )
