"""Files and folders that are there whole or not at all, whatever is killed and whoever else writes them.

Everything is written under a name of its own beside its place, and put there by one rename. A kill leaves at
most such a draft, whose name begins with a dot.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def draft_of(path: Path) -> Path:
    """Return a hidden name beside `path` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a crash of the machine."""
    draft = draft_of(path)
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty draft of the folder `path`, and put it in place when the block is left without an error.

    What stood in its place, the rest of a kill, is removed.
    """
    draft = draft_of(path)
    try:
        draft.mkdir(parents=True)
        yield draft
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
