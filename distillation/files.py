"""Files and folders that are there whole or not at all, whatever is killed and whoever else writes them.

Everything is written under a name of its own beside its place, and put there by one rename. A kill leaves at
most such a draft, whose name begins with a dot.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distillation.errors import DistillationError, StorageError, reason_of

_STORAGE_ERRORS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "name a folder that can be written",
    errno.EPERM: "name a folder that can be written",
    errno.ENOTDIR: "a file stands in the way; name another folder",
    errno.ENAMETOOLONG: "name a folder with a shorter path",
    errno.EIO: "the disk fails; name a folder on another one",
}

_NUMBER_IN_TEXT = re.compile(r"\(os error (\d{1,9})\)")


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
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a folder survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot, and keep names by other means
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Make all files and folders below `directory` survive a crash of the machine."""
    for folder, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


@contextmanager
def new_directory(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty draft of the folder `path`, and put it in place when the block is left without an error.

    What stands in its place is removed, or with `replace` false stays, and the draft is dropped: another
    process was quicker.
    """
    draft = draft_of(path)
    try:
        draft.mkdir(parents=True)
        yield draft
        sync_tree(draft)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        try:
            draft.rename(path)
        except OSError:
            if replace or not path.is_dir():
                raise
        sync_directory(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def storing(path: str | Path, setting: str | None = None) -> Iterator[None]:
    """Turn a full or read-only disk, or missing rights, below `path` into one line that says what to do.

    Args:
        path: file or folder that the block writes.
        setting: name of the setting that chose the place, for the message.

    Raises:
        StorageError: in place of the error, whichever library raised it.
    """
    try:
        yield
    except DistillationError:
        raise
    except Exception as error:
        refused = storage_error(error, {path: setting})
        if refused is None:
            raise
        raise refused from error


def storage_error(error: BaseException, places: Mapping[str | Path, str | None]) -> StorageError | None:
    """Return the line for a full or read-only disk, or missing rights, behind `error`; None for all else.

    Args:
        error: of whatever library was writing.
        places: files and folders that were being written, with the settings that chose them.
    """
    cause = _system_error(error)
    named = cause.filename if cause is not None and isinstance(cause.filename, str) else None
    if cause is None or named is None:
        # torch, safetensors, pyarrow, sqlite have errors of their own; writing shows whether it is the disk.
        for place in places:
            refused = refusal_of(Path(place))
            if refused is not None:
                cause, named = refused, str(place)
                break
    if cause is None:
        return None
    place = named or str(next(iter(places), "a file"))
    setting = next((one for path, one in places.items() if _is_below(place, path)), None)
    remedy = _STORAGE_ERRORS[cause.errno or errno.EIO]
    chosen = f" ({setting})" if setting else ""
    return StorageError(f"{place}: cannot be written, {reason_of(cause)}; {remedy}{chosen}")


def _is_below(path: str, folder: str | Path) -> bool:
    return Path(path).absolute().is_relative_to(Path(folder).absolute())


def _system_error(error: BaseException) -> OSError | None:
    """Return the system's refusal behind `error`; None where it is something else."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _STORAGE_ERRORS:
            return seen
        # Libraries in Rust put the number into the text. Their own draft is gone by now, so that trying again
        # would find room.
        number = _NUMBER_IN_TEXT.search(str(seen))
        if number is not None and int(number[1]) in _STORAGE_ERRORS:
            return OSError(int(number[1]), os.strerror(int(number[1])))
        seen = seen.__cause__ or seen.__context__
    return None


def refusal_of(path: Path) -> OSError | None:
    """Try to write to `path`, if it is there, and beside it; return what the system refuses."""
    folder = path if path.is_dir() else path.parent
    while not folder.exists():
        folder = folder.parent
    probe = draft_of(folder / "space")
    try:
        if path.is_file():
            path.open("r+b").close()
        with probe.open("wb") as stream:
            stream.write(b"\0" * 2**16)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error if error.errno in _STORAGE_ERRORS else None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None
