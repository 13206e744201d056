"""Content hashes: what determines a result, in sixteen hexadecimal characters."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distillation.errors import InputError
from distillation.reading import open_regular

HEXADECIMALS = 16


def digest_of(value: Any) -> str:
    """Return the hash of a value's canonical JSON; pydantic models are dumped first."""
    dumped = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    text = json.dumps(dumped, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HEXADECIMALS]


def digest_of_directory(path: str | Path, suffixes: tuple[str, ...] | None = None) -> str:
    """Return the hash of the names and bytes of all files below `path` (or of the one file), in name order.

    `suffixes` keeps only files that end with one of them.
    """
    root = Path(path)
    # What is no regular file is never opened: a pipe or a device would be read without end.
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    return digest_of_files(root, [file for file in files if suffixes is None or file.name.endswith(suffixes)])


def digest_of_files(root: Path, files: Iterable[Path]) -> str:
    """Return the hash of the names, relative to `root`, and the bytes of `files` in their order."""
    total = hashlib.sha256()
    for file in files:
        total.update(os.fsencode(file.relative_to(root).as_posix()) + b"\0")
        try:
            with open_regular(file) as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        except InputError:  # whoever reads the folder says so; here it only must not pass for an empty file
            total.update(b"unreadable")
    return total.hexdigest()[:HEXADECIMALS]
