"""Content hashes: what determines a result, in sixteen hexadecimal characters."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata, util
from pathlib import Path
from typing import Any

SHAPING_LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "great-expectations")
"""Libraries whose version can change a result."""
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
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    total = hashlib.sha256()
    for file in files:
        if suffixes is not None and not file.name.endswith(suffixes):
            continue
        total.update(file.relative_to(root).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:HEXADECIMALS]


def digest_of_sources(*packages: str) -> str:
    """Return the hash of the Python sources of `packages` and of the libraries that shape results."""
    parts: dict[str, str] = {}
    for package in packages or ("distillation",):
        spec = util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(package)
        origin = Path(spec.origin)
        root = origin.parent if spec.submodule_search_locations else origin
        parts[package] = digest_of_directory(root, (".py", ".html"))
    for library in SHAPING_LIBRARIES:
        parts[library] = metadata.version(library)
    return digest_of(parts)
