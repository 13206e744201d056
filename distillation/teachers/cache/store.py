"""The teacher cache on disk: what the teacher said of each window, a few entries a position.

    CACHE_DIR/  identity.json   what determines the content; its hash is the folder's name
                plans/NNNN.json which windows go into which shard; a grown corpus adds a plan
                shards/NAME.safetensors, NAME.json (checksum and counts; written last)
                dense.safetensors, dense.json (whole targets of a few positions; checksum)
                requests/   locks

Legend, at the end of names: W windows, T student tokens of all windows one after another, S teacher tokens
likewise, E entries likewise.

A window is known by the hash of its tokens, so windows of any corpus meet in one cache and what is there is
never made again. A shard is named by its windows and is put in place at once, whole: a killed process leaves
nothing behind but a draft, and two that write the same shard write the same bytes. Locks only save work; the
system frees them when a process dies.

Invariants: what is read equals what was written to the bit; a damaged byte is found before training.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.config import CacheSettings
from distillation.errors import InputError, JobError, one_line
from distillation.files import draft_of, write_atomically
from distillation.fingerprint import digest_of
from distillation.seals import read_sealed, sha256_of, write_sealed
from distillation.teachers.cache.entries import (
    KEY_BYTES,
    NOTHING,
    WindowEntries,
    stored_parts,
    window_of_parts,
)

logger = logging.getLogger(__name__)


class TeacherCache(BaseModel):
    """A filled cache as far as one corpus needs it."""

    model_config = ConfigDict(frozen=True)

    directory: Path
    settings: CacheSettings
    shards: dict[str, str]
    """Checksum of each shard that holds windows of the corpus."""
    metrics: dict[str, float]
    """Size, speed, and how far the sparse targets are from the dense slice."""

    @property
    def digest(self) -> str:
        """Hash of the content."""
        return digest_of(self.shards)


class CacheStore:
    """The files of a cache; see the module's docstring."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.shards_dir = self.directory / "shards"
        self._lock_file: int | None = None

    # --------------------------------------------------------------------------------------------- plan

    def plan(self, keys: Sequence[bytes], windows_per_shard: int) -> list[tuple[bytes, ...]]:
        """Return the windows of each shard of the cache, after planning for those `keys` that have none.

        Any number of processes may call this at once: one of them writes the plan, all follow it.
        """
        plans = self.directory / "plans"
        plans.mkdir(parents=True, exist_ok=True)
        while True:
            # Looked up before the plans are read: one that comes meanwhile has this number.
            path = _first_free(plans)
            shards = self.planned()
            if _first_free(plans) != path:  # another one came, or a damaged one was set aside
                continue
            known = {key for shard in shards for key in shard}
            new = [key for key in dict.fromkeys(keys) if key not in known]
            if not new:
                return shards
            parts = [
                new[begin : begin + windows_per_shard] for begin in range(0, len(new), windows_per_shard)
            ]
            _create_sealed(path, {"shards": [b"".join(part).hex() for part in parts]})

    def planned(self) -> list[tuple[bytes, ...]]:
        """Return the windows of each shard as the plans say.

        A plan that is damaged is set aside with a warning. Its windows are planned anew: into the same shards
        where they come in the same order, and those that are there are used again.
        """
        shards = []
        for path in sorted((self.directory / "plans").glob("[0-9]*.json")):
            try:
                content = read_sealed(path)
            except InputError as error:
                logger.warning("teacher cache: %s; its windows are planned anew", one_line(error))
                with suppress(FileNotFoundError):  # another process was quicker
                    path.replace(path.with_name(f"damaged-{path.name}"))
                continue
            for text in content["shards"]:
                joined = bytes.fromhex(text)
                shards.append(tuple(joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES)))
        return shards

    # ------------------------------------------------------------------------------------------- shards

    def write(self, keys: Sequence[bytes], windows: Sequence[WindowEntries]) -> None:
        """Write one shard and, after it, its checksum."""
        from safetensors.numpy import save

        self.shards_dir.mkdir(parents=True, exist_ok=True)
        tensors = {"key": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)}
        parts = [stored_parts(window) for window in windows]
        for name in parts[0]:
            tensors[name] = np.concatenate([part[name] for part in parts])
            tensors[f"begin.{name}"] = np.cumsum([0, *(len(part[name]) for part in parts)]).astype(np.int64)
        tensors["residual"] = np.asarray([window.residual for window in windows], np.float32)
        content = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
        name = shard_name(keys)
        write_atomically(self.shards_dir / f"{name}.safetensors", content)
        record = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "num_windows": len(keys),
            "num_tokens": len(tensors["num_entries_T"]),
            "num_targets": int((tensors["num_entries_T"] > 0).sum()),
            "num_entries": len(tensors["id_E"]),
            "num_bytes": len(content),
        }
        write_sealed(self.shards_dir / f"{name}.json", record)

    def record(self, name: str) -> dict[str, Any] | None:
        """Return checksum and counts of a shard; None where it was never finished, or they are damaged."""
        try:
            return read_sealed(self.shards_dir / f"{name}.json")
        except InputError:
            return None

    def is_whole(self, name: str) -> bool:
        """Read a shard through and compare its checksum."""
        record = self.record(name)
        if record is None:
            return False
        try:
            return sha256_of(self.shards_dir / f"{name}.safetensors") == record["sha256"]
        except InputError:
            return False

    @contextmanager
    def claim(self, index: int, wait: bool) -> Iterator[bool]:
        """Hold the lock of the shard at `index` of the plan; False if another process has it.

        One byte of one file a shard: such a lock ends with its process, however that ends.
        """
        import fcntl

        if self._lock_file is None:
            self._lock_file = os.open(self.directory / "locks", os.O_RDWR | os.O_CREAT, 0o644)
        mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            fcntl.lockf(self._lock_file, mode, 1, index)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN, 1, index)

    def link_into(self, folder: Path, names: Iterable[str]) -> None:
        """Put the shards `names` into another folder without a second copy of their bytes, if possible.

        Shards are replaced, never changed, so a link keeps what it was made of.
        """
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        sources = [self.directory / "identity.json"]
        for name in names:
            sources += [self.shards_dir / f"{name}.safetensors", self.shards_dir / f"{name}.json"]
        for source in sources:
            target = folder / source.relative_to(self.directory)
            if target.exists() and target.samefile(source):
                continue
            draft = draft_of(target)
            try:
                os.link(source, draft)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, draft)
            draft.replace(target)


class CacheReader:
    """Reads windows of a cache, memory-mapped.

    Args:
        directory: with `shards/`.
    """

    def __init__(self, directory: str | Path) -> None:
        self.store = CacheStore(directory)
        self.names = sorted(path.stem for path in self.store.shards_dir.glob("[!.]*.json"))
        self._open: dict[str, tuple[Any, Mapping[str, np.ndarray]]] = {}
        self._places: dict[bytes, tuple[str, int]] | None = None

    def check(self, digest: str | None = None) -> None:
        """Read every shard through.

        Raises:
            JobError: a shard is damaged or missing, or they are not those of `digest`.
        """
        remedy = "run the pipeline again, which makes it anew"
        for name in self.names:
            if not self.store.is_whole(name):
                raise JobError(f"teacher cache {self.store.shards_dir}/{name}.safetensors: damaged; {remedy}")
        shards = {name: record["sha256"] for name in self.names if (record := self.store.record(name))}
        if digest is not None and digest_of(shards) != digest:
            raise JobError(f"teacher cache {self.store.directory}: not the one of this job; {remedy}")

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    @property
    def places(self) -> dict[bytes, tuple[str, int]]:
        """Shard and index of each window."""
        if self._places is None:
            self._places = {}
            for name in self.names:
                keys = self._shard(name)[0].get_tensor("key")
                self._places |= {row.tobytes(): (name, index) for index, row in enumerate(keys)}
        return self._places

    def read(self, key: bytes) -> WindowEntries:
        """Return what is kept of a window.

        Raises:
            KeyError: the cache has no such window.
        """
        name, index = self.places[key]
        file, begins = self._shard(name)
        parts: dict[str, np.ndarray] = {}
        for field, begin_W in begins.items():
            begin, end = begin_W[index : index + 2].tolist()
            parts[field] = file.get_slice(field)[begin:end] if end > begin else NOTHING[field]
        return window_of_parts(parts, file.get_slice("residual")[index : index + 1][0])

    def _shard(self, name: str) -> tuple[Any, Mapping[str, np.ndarray]]:
        if name not in self._open:
            from safetensors import safe_open

            file: Any = safe_open(self.store.shards_dir / f"{name}.safetensors", framework="numpy")
            self._open[name] = (file, {field: file.get_tensor(f"begin.{field}") for field in NOTHING})
        return self._open[name]


def shard_name(keys: Sequence[bytes]) -> str:
    """Return the name of the shard of these windows."""
    return hashlib.blake2b(b"".join(keys), digest_size=KEY_BYTES).hexdigest()


def _first_free(plans: Path) -> Path:
    """Return the place of the next plan; that of a damaged one, if it was set aside."""
    paths = (plans / f"{number:04d}.json" for number in itertools.count())
    return next(path for path in paths if not path.exists())


def _create_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that must not exist yet; whoever comes second leaves the first one's."""
    draft = draft_of(path)
    write_sealed(draft, content)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
