"""The champion as a plain folder that transformers loads, and on the hub when asked.

The folder holds weights, configuration, tokenizer, the card as README.md, and `champion.json`, which says
what it is and marks the folder as ours to replace. It is complete and verified before it takes its place: the
digest of its weights is the one that was written with the version when the student was registered.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from distillation.config import PromotionSettings
from distillation.errors import PromotionError, PublishError, SettingsError, one_line
from distillation.files import draft_of
from tracking.registration import CARD_FILE, MODEL_FOLDER, download_artifact, weights_digest
from tracking.registry import CHAMPION
from tracking.runs import Recorder
from tracking.server import tracking_errors
from tracking.versions import Version, read_aliases, read_versions

MARK_FILE = "champion.json"
_MAX_ATTEMPTS = 10


class Exported(BaseModel):
    """What lies in an export folder."""

    model_config = ConfigDict(frozen=True)

    model_name: str
    version: int
    run_id: str
    run_name: str
    held_out_fingerprint: str
    weights: str
    """Digest of the weight files, as in the version's tag."""


def check_export_folder(settings: PromotionSettings) -> None:
    """See that the folder to be replaced is an export, empty, or not there.

    Raises:
        SettingsError: it holds something else, or cannot be written.
    """
    if settings.export_dir is None:
        return
    path = Path(settings.export_dir)
    if path.is_dir() and any(path.iterdir()) and read_mark(path) is None:
        raise SettingsError(
            f"export_dir = {path}: it holds other files and would be replaced; name a new folder"
        )
    if path.exists() and not path.is_dir():
        raise SettingsError(f"export_dir = {path}: it is a file; name a folder")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"export_dir = {path}: cannot be written ({one_line(error)}); name a folder that you can write"
        ) from None


def read_mark(folder: Path) -> Exported | None:
    """Return what an export folder holds, or None where it is no export."""
    try:
        return Exported.model_validate_json((folder / MARK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def export_champion(recorder: Recorder, model_name: str, folder: Path) -> Exported:
    """Write the champion into `folder`, in place of the one before, until it is who the alias names.

    The old folder is there whole until the new one is, but for the instant between two renames.

    Raises:
        PromotionError: there is no champion.
        PublishError: the weights differ from those that were registered, or the folder cannot be written.
        TrackingError: the server failed.
    """
    for _ in range(_MAX_ATTEMPTS):
        with tracking_errors(recorder.uri):
            number = read_aliases(recorder.client, model_name).get(CHAMPION)
            versions = {one.number: one for one in read_versions(recorder.client, model_name)}
        if number is None or number not in versions:
            raise PromotionError(f"model_name = {model_name}: there is no champion; promote a student first")
        exported = _export(recorder, model_name, versions[number], folder)
        with tracking_errors(recorder.uri):
            if read_aliases(recorder.client, model_name).get(CHAMPION) == number:
                return exported
    raise PublishError(f"export_dir = {folder}: the champion changes again and again; publish it later")


def _export(recorder: Recorder, model_name: str, version: Version, folder: Path) -> Exported:
    draft = draft_of(folder.absolute())
    download = draft_of(folder.absolute())
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        download.mkdir()
        with tracking_errors(recorder.uri):
            location = recorder.client.get_model_version_download_uri(model_name, str(version.number))
        source = download_artifact(recorder, location, download)
        shutil.copytree(source / MODEL_FOLDER, draft)
        if (source / CARD_FILE).exists():
            shutil.copy2(source / CARD_FILE, draft / CARD_FILE)
        weights = weights_digest(draft)
        if version.weights and weights != version.weights:
            raise PublishError(
                f"export_dir = {folder}: the weights of version {version.number} have digest {weights}, "
                f"registered was {version.weights}; the folder is as it was, see who changed the artifact"
            )
        exported = Exported(
            model_name=model_name,
            version=version.number,
            run_id=version.run_id,
            run_name=version.run_name,
            held_out_fingerprint=version.held_out_fingerprint,
            weights=weights,
        )
        mark = json.dumps(exported.model_dump(), indent=2) + "\n"
        (draft / MARK_FILE).write_text(mark, encoding="utf-8")
        _put_in_place(draft, folder.absolute())
    except OSError as error:
        raise PublishError(
            f"export_dir = {folder}: version {version.number} is the champion, but cannot be written there "
            f"({one_line(error)}); mend that, then publish with --publish"
        ) from error
    finally:
        for rest in (draft, download):
            shutil.rmtree(rest, ignore_errors=True)
    return exported


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`; what stood there moves aside first, and back if that fails."""
    for attempt in range(_MAX_ATTEMPTS):
        aside: Path | None = draft_of(folder)
        try:
            folder.rename(str(aside))
        except FileNotFoundError:
            aside = None
        try:
            draft.rename(folder)
            return
        except OSError:
            if folder.exists() and attempt + 1 < _MAX_ATTEMPTS:  # another export came in between
                time.sleep(0.01)
                continue
            if aside is not None and not folder.exists():
                aside.rename(folder)
            raise
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
