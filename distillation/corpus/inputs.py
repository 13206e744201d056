"""What a job, or a cache's request, is prepared with: compared with what is there before it is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distillation.config import ModelReference
from distillation.errors import InputError, JobError, ModelError, reason_of
from distillation.models.load import Role, model_digest, resolve_path
from distillation.seals import digests_of_files, first_fault, read_sealed, write_sealed

INPUTS_FILE = "inputs.json"


def write_inputs(directory: Path, **content: Any) -> None:
    """Keep the digests of the files of `corpus/` and `aligner/`, and `content` with them."""
    files = {
        f"{folder}/{name}": digest
        for folder in ("corpus", "aligner")
        if (directory / folder).is_dir()
        for name, digest in digests_of_files(directory / folder).items()
    }
    write_sealed(directory / INPUTS_FILE, {"files": files, **content})


def check_inputs(directory: Path, what: str = "job directory") -> dict[str, Any]:
    """Compare corpus and aligner with the digests that were taken when they were written, and return those.

    Raises:
        JobError: a file is missing or damaged.
    """
    content: dict[str, Any] = {}
    try:
        content = read_sealed(directory / INPUTS_FILE)
        fault = first_fault(directory, content["files"])
    except (InputError, KeyError) as error:
        fault = f"{INPUTS_FILE} is missing or damaged ({reason_of(error)})"
    if fault is not None:
        raise JobError(f"{what} {directory}: {fault}; prepare it again")
    return content


def check_model(
    reference: ModelReference, role: Role, digest: str, settings_file: Path, what: str = "job directory"
) -> None:
    """Compare a model with the one that a job, or a cache's request, was prepared with.

    Args:
        reference: of the settings in `settings_file`.
        role: of the model.
        digest: that was taken when it was prepared.
        settings_file: says where the model is.
        what: is prepared, for the message.

    Raises:
        ModelError: it is gone.
        JobError: its files are others.
    """
    if model_digest(reference, role) == digest:
        return
    path = resolve_path(reference, role)
    if not os.path.isdir(path):
        # Also where it could pass for a name on the hub: what is there has another digest.
        raise ModelError(
            f"models.{role}.path = {path}: no such directory, seen from {Path.cwd()}; put the model there, "
            f"or name its place in {settings_file}"
        )
    raise JobError(
        f"models.{role}.path = {path}: its files are not those that the {what} {settings_file.parent} was "
        "prepared with; put those back, or prepare it again"
    )


def without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Return dumped settings less what says where models lie; digests stand for their files."""
    models = dict(settings["models"])
    for role in ("teacher", "student"):
        kept = {name: value for name, value in models[role].items() if name != "path"}
        models[role] = kept | {"trust_remote_code_of": kept["trust_remote_code_of"] is not None}
    return {**settings, "models": models}
