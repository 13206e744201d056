"""How a student that passed the gate becomes a version, once, and perhaps the champion.

The version is written after its card and after the digest of its weights, and the alias moves last: whatever
fails before leaves the old champion in place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillation.config import PromotionSettings
from distillation.errors import PromotionError
from distillation.fingerprint import digest_of_directory
from tracking.aliases import patiently, settle_aliases
from tracking.registry import CHAMPION, Candidate, current_champion, has_code
from tracking.runs import Recorder
from tracking.server import tracking_errors
from tracking.versions import Version, judgement_tags, read_aliases, read_versions

CARD_FILE = "README.md"
MODEL_FOLDER = "model"
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")


class Standing(BaseModel):
    """Where a promoted student stands once the aliases have come to rest."""

    model_config = ConfigDict(frozen=True)

    version: int
    champion: int
    """The version that is champion, which is another one if this student lost to it."""

    @property
    def is_champion(self) -> bool:
        """Whether the student is the champion."""
        return self.version == self.champion


def promote(recorder: Recorder, candidate: Candidate, settings: PromotionSettings, card: str) -> Standing:
    """Register the candidate, which passed every line about itself, and let the aliases come to rest.

    Raises:
        PromotionError: its version was rolled back meanwhile, or the aliases do not come to rest.
        TrackingError: the server or the registry failed.
    """
    with tracking_errors(recorder.uri):
        _prepare_model(recorder, settings)
        number = _register(recorder, candidate, settings, card)
    champion = settle_aliases(recorder, settings.model_name)
    return Standing(version=number, champion=champion.number)


def download_artifact(recorder: Recorder, location: str, target: Path) -> Path:
    """Download what lies at `location` in the artifact store into the folder `target`; return its path there.

    MLflow's `models:/` addresses are not used: it looks them up on the server that is set for the process.

    Raises:
        TrackingError: the server or the artifact store failed.
    """
    from mlflow.artifacts import download_artifacts

    with tracking_errors(recorder.uri):
        return Path(
            download_artifacts(
                artifact_uri=location,
                dst_path=str(target),
                tracking_uri=recorder.uri,
                registry_uri=recorder.uri,
            )
        )


def weights_digest(folder: Path) -> str:
    """Return the digest of the weight files of a folder that transformers reads.

    Raises:
        PromotionError: there are none.
    """
    if not list(folder.glob("*.safetensors")):
        raise PromotionError(f"folder {folder}: it holds no weights as safetensors; log the student again")
    return digest_of_directory(folder, WEIGHT_SUFFIXES)


def _prepare_model(recorder: Recorder, settings: PromotionSettings) -> None:
    """See that the model exists, and give a champion of an early release the tags of one that passed."""
    from mlflow.exceptions import MlflowException

    client, name = recorder.client, settings.model_name
    try:
        patiently(
            lambda: client.create_registered_model(
                name, description="Distilled students that passed the gate."
            )
        )
    except MlflowException as error:
        if not has_code(error, "RESOURCE_ALREADY_EXISTS"):
            raise
    number = read_aliases(client, name).get(CHAMPION)
    known = {one.number for one in read_versions(client, name)}
    champion = current_champion(recorder, name) if number is not None and number not in known else None
    if champion is not None and settings.metric in champion.metrics:
        _set_tags(recorder, name, str(number), judgement_tags(champion, settings, weights=""))


def _register(recorder: Recorder, candidate: Candidate, settings: PromotionSettings, card: str) -> int:
    """Return the number of the candidate's version: the one that it has, or a new one."""
    client, name = recorder.client, settings.model_name
    model_id = candidate.model_uri.removeprefix("models:/")
    location = str(client.get_logged_model(model_id).artifact_location)
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_digest(download_artifact(recorder, f"{location}/{MODEL_FOLDER}", Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, CARD_FILE).write_text(card, encoding="utf-8")
        client.log_model_artifacts(model_id, folder)
    client.log_text(candidate.run_id, card, "model_card.md")
    tags = judgement_tags(candidate, settings, weights)

    def register_once() -> int:
        known = _version_of(recorder, candidate, name)  # an attempt that seemed to fail may have succeeded
        if known is not None:
            return known.number
        created = client.create_model_version(
            name,
            source=location,
            run_id=candidate.run_id,
            model_id=model_id,
            description=card[:4000],
            tags=tags,
        )
        return int(created.version)

    if (known := _version_of(recorder, candidate, name)) is not None:
        _set_tags(recorder, name, str(known.number), tags)
        return known.number
    number = patiently(register_once)
    first = _version_of(recorder, candidate, name)
    if first is not None and first.number < number:  # two promoted the same student at once
        patiently(lambda: client.delete_model_version(name, str(number)))
        return first.number
    return number


def _set_tags(recorder: Recorder, model_name: str, number: str, tags: Mapping[str, str]) -> None:
    for tag, value in tags.items():
        patiently(partial(recorder.client.set_model_version_tag, model_name, number, tag, value))


def _version_of(recorder: Recorder, candidate: Candidate, model_name: str) -> Version | None:
    """Return the first version of the candidate that passed, or None.

    Raises:
        PromotionError: it was rolled back.
    """
    versions = patiently(lambda: read_versions(recorder.client, model_name))
    found = [one for one in versions if one.run_id == candidate.run_id]
    standing = [one for one in found if not one.retired]
    if found and not standing:
        raise PromotionError(
            f"run {candidate.run_name} is not promoted: version {found[-1].number} of it was rolled back at "
            f"{found[-1].retired}; delete the version's tag 'retired' to let it compete again"
        )
    return standing[0] if standing else None
