"""Digests that are taken when something is made and compared before it is believed.

A sealed file is a JSON object with the digest of its own content; of a folder the digests of all files are
kept in one. A bit that flipped, a file that was cut short or is gone is found before it is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distillation.errors import InputError
from distillation.files import write_json
from distillation.fingerprint import digest_of
from distillation.reading import open_regular, read_json

SEAL = "seal"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its own digest in it."""
    return {**content, SEAL: digest_of(dict(content))}


def unsealed(content: Any) -> dict[str, Any] | None:
    """Return what `sealed` was given; None if `content` is not what it made of it."""
    if not isinstance(content, dict):
        return None
    rest = {name: value for name, value in content.items() if name != SEAL}
    return rest if content.get(SEAL) == digest_of(rest) else None


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its own digest."""
    write_json(path, sealed(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` was given.

    Raises:
        InputError: it is not there, cannot be read, or is not what was written.
    """
    content = unsealed(read_json(path))
    if content is None:
        raise InputError(f"{path}: is not what was written")
    return content


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file.

    Raises:
        InputError: it is not there or cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def digests_of_files(directory: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of all files below `directory`, or of `names`, by their names in it."""
    if names is not None:
        return {name: sha256_of(directory / name) for name in names}
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}


def first_fault(directory: Path, digests: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first file that is not as `digests` says; None if all are."""
    for name, digest in digests.items():
        try:
            if sha256_of(directory / name) != digest:
                return f"{name} is not what was written"
        except InputError as error:
            return f"{name} is missing" if not (directory / name).exists() else str(error)
    return None
