"""One reader for everything that comes from outside: settings, corpora, models, job directories, caches.

A path that a user names can be an endless pipe, a device, a loop of links, a file of many gigabytes, or
JSON nested a million deep. Every reader here has bounds and one error, `InputError`, whose message names the
path and what is wrong with it. A caller that knows the setting puts it in front:

    except InputError as error:
        raise ModelError(f"models.teacher.path = {path!r}: {error}") from error
"""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from distillation.errors import DistillationError, InputError, reason_of

MAX_TEXT_BYTES = 256 * 2**20
"""Largest file that is read as one text; the `tokenizer.json` of large vocabularies has 40 MB."""
MAX_YAML_BYTES = 2**20
"""Largest YAML text: settings and tasks are written by people."""
MAX_YAML_VALUES = 100_000
"""Most values of a YAML text, those that an alias repeats counted each time."""


def printable(path: str | Path) -> str:
    """Return a path for a message or a record: bytes of its name that are no UTF-8 stand as `\\xe9`."""
    try:
        return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character that never was a byte of a name
        return str(path).encode("utf-8", "backslashreplace").decode()


def status_of(path: str | Path) -> os.stat_result:
    """Return what stands at a path, whatever links lead there, without opening it.

    Raises:
        InputError: there is nothing, or it may not be looked at.
    """
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(f"{printable(path)}: {reason_of(error)}") from error
    except ValueError as error:
        raise InputError(_no_path(path, error)) from error


def _no_path(path: str | Path, error: ValueError) -> str:
    """Say why a text cannot be the name of a file on this system."""
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{str(path)!r}: this process takes names of files as {sys.getfilesystemencoding()}; "
            "set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
        )
    return f"{str(path)!r}: is no path ({error})"  # a NUL in the name


_PIECE = 2**20


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading; a pipe, a device, a socket or a folder is refused without waiting.

    Raises:
        InputError: it is not there, is no regular file, or may not be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be read ({reason_of(error)})") from error
    except ValueError as error:
        raise InputError(_no_path(path, error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{printable(path)}: is no regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file of at most `max_bytes`.

    Raises:
        InputError: as `open_regular`, or the file is larger.
    """
    content = bytearray()
    with open_regular(path) as stream:
        try:
            # By pieces: one read of `max_bytes` would take that much memory for a file of any size.
            while len(content) <= max_bytes and (piece := stream.read(min(_PIECE, max_bytes + 1))):
                content += piece
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({reason_of(error)})") from error
    if len(content) > max_bytes:
        raise InputError(f"{path}: is larger than {max_bytes / 2**20:,.0f} MiB")
    return bytes(content)


def read_text(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return a UTF-8 file as text, without a byte order mark.

    Raises:
        InputError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes=max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: invalid UTF-8 at byte {error.start}") from error


def parse_json(text: str | bytes, name: str | Path) -> Any:
    """Parse JSON; `name` is what the message calls it.

    Raises:
        InputError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{name}: JSON is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{name}: not JSON ({reason_of(error)})") from error


def read_json(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Return a JSON file that holds one object.

    Raises:
        InputError: as `read_text` and `parse_json`, or it holds something else.
    """
    content = parse_json(read_text(path, max_bytes=max_bytes), path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object, not {type(content).__name__}")
    return content


@contextmanager
def reading_by_libraries(say: Callable[[str], DistillationError]) -> Iterator[None]:
    """Turn whatever a library raises while it reads something from outside into one line.

    Only calls of libraries belong into the block: a fault of ours in it would pass for one of the file.

    Args:
        say: takes the library's reason, returns the error that is raised in place of the library's.
    """
    try:
        yield
    except DistillationError:
        raise
    except Exception as error:
        raise say(reason_of(error)) from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # a Rust library's panic, which is no Exception
            raise
        raise say(reason_of(error)) from error


def parse_yaml(text: str, name: str | Path) -> Any:
    """Parse YAML; `name` is what the message calls it. Dates are texts, and no key may stand twice.

    Raises:
        InputError: it is no YAML, nested too deep, or holds more than is written by hand.
    """
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_values(node, {})
            return _unshared(loader.construct_document(node))
        finally:
            loader.dispose()
    except RecursionError as error:
        raise InputError(f"{name}: YAML is nested too deep") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: not valid YAML, {reason_of(error)}") from error


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        InputError: as `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, max_bytes=MAX_YAML_BYTES), path)


class _PlainLoader(yaml.SafeLoader):
    """YAML 1.1 without dates: `revision: 2024-07-16` names a branch, and JSON has no dates."""

    # The tables of SafeLoader are shared by everybody who uses the library.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _unshared(value: Any) -> Any:
    """Return a copy in which no mapping or list stands twice: changing one place must not change another."""
    if isinstance(value, dict):
        return {key: _unshared(one) for key, one in value.items()}
    return [_unshared(one) for one in value] if isinstance(value, list) else value


def _count_values(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Return the number of values below a node as they would be written out, without any alias."""
    if node in known:
        count = known[node]
        if count is None:
            raise yaml.YAMLError("a value holds itself")
        return count
    known[node] = None
    count = 1
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in keys:
                raise yaml.YAMLError(
                    f"line {key.start_mark.line + 1}: {key.value} stands twice in one mapping"
                )
            keys.add(key.value)
        count += sum(_count_values(one, known) for pair in node.value for one in pair)
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_count_values(one, known) for one in node.value)
    if count > MAX_YAML_VALUES:
        raise yaml.YAMLError(f"it holds more than {MAX_YAML_VALUES:,} values")
    known[node] = count
    return count
