"""Compressed files as streams of their content, with bounds on what they unpack to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from distillation.corpus.left_out import BadFileError
from distillation.errors import reason_of
from distillation.reading import open_regular

MAX_RATIO = 200
"""Text packs to a third or a tenth; what unpacks to more than this times its size was made to fill a disk."""
MIN_ALLOWED_BYTES = 64 * 2**20
"""A small file may unpack to this much in any case."""


def _zstandard(stream: BinaryIO) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")


UNPACKERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda stream: gzip.GzipFile(fileobj=stream),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstandard,
}
"""Suffix -> what reads a stream of it."""


def split_suffixes(name: str) -> tuple[str, str]:
    """Return the suffix of the content and that of the packing in lower case, empty where there is none."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix not in UNPACKERS:
        return suffix, ""
    return os.path.splitext(stem)[1], suffix


def open_unpacked(path: Path, *, max_bytes: int | None = None) -> BinaryIO:
    """Open a file for reading; what is packed, as its last suffix says, is unpacked on the way.

    Args:
        path: the file.
        max_bytes: most that it may unpack to, where its size allows more.

    Raises:
        InputError: as `open_regular`. Reading raises `BadFileError` where the content is damaged or endless.
    """
    stream = open_regular(path)
    _, packing = split_suffixes(path.name)
    if not packing:
        return stream
    limit = max(MIN_ALLOWED_BYTES, MAX_RATIO * os.fstat(stream.fileno()).st_size)
    if max_bytes is not None:
        limit = min(limit, max_bytes)
    return io.BufferedReader(_Unpacked(stream, UNPACKERS[packing], limit), 1 << 20)


class _Unpacked(io.RawIOBase):
    """The content of a packed stream, up to a limit."""

    def __init__(self, stream: BinaryIO, unpack: Callable[[BinaryIO], Any], limit: int) -> None:
        self._stream, self._limit, self._num_bytes = stream, limit, 0
        self._content = self._guarded(lambda: unpack(stream))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content: bytes = self._guarded(lambda: self._content.read(len(buffer)))
        self._num_bytes += len(content)
        if self._num_bytes > self._limit:
            raise BadFileError(f"unpacks to more than {self._limit / 2**20:,.0f} MiB", "unpack it to use it")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _guarded(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as error:  # zlib, lzma, Arrow and the end of the file each have kinds of their own
            raise BadFileError("cannot be unpacked", f"{reason_of(error)}; get the file again") from error
