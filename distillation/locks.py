"""A lock on a folder that ends with its process, however that ends, on a local disk or over NFS."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from distillation.errors import InputError, LockError
from distillation.files import storing, write_json
from distillation.reading import read_json

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.holder"
"""Who holds the lock, for people; a file of its own, since whoever tries a lock may empty its file."""


@contextmanager
def exclusive(
    directory: Path, what: str, *, wait: bool = False, setting: str | None = None
) -> Iterator[None]:
    """Be the only process that writes in `directory` while the block runs.

    Args:
        directory: an existing folder.
        what: what the folder is, for the message, such as "job directory".
        wait: for the process that has it, instead of leaving at once; one line says for whom.
        setting: name of the setting that chose the place, for the message.

    Raises:
        LockError: another process has it and `wait` is false; host and process are named.
        StorageError: the lock cannot be made.
    """
    # The system's own lock (flock), never the mere presence of a file: nothing is left behind by a kill.
    lock = FileLock(directory / LOCK_FILE, thread_local=False)
    with storing(directory, setting):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise LockError(
                    f"{what} {directory}: {_holder(directory)} is at work on it; wait until it has ended, "
                    "or end it, and start again"
                ) from None
            print(f"{what} {directory}: waiting for {_holder(directory)}", file=sys.stderr)
            while not lock.is_locked:
                with suppress(Timeout):
                    lock.acquire(timeout=1.0)
    try:
        with storing(directory, setting):
            write_json(
                directory / HOLDER_FILE,
                {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()},
            )
        yield
    finally:
        with suppress(OSError):
            (directory / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _holder(directory: Path) -> str:
    try:
        holder = read_json(directory / HOLDER_FILE)
        return f"process {holder['process']} on {holder['host']}"
    except (InputError, KeyError):
        return "another process"
