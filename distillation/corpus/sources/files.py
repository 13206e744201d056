"""Local documents: txt, jsonl and parquet files, also packed, and folders of them, always in the same order.

What cannot be used never costs the rest. A bad document (a line that is no JSON, a NUL, invalid UTF-8) is
left out, and so is a bad file: a pipe, a device, a loop of links, one that the user may not open, a damaged
parquet, a suffix that is not read. All are counted by cause (`left_out`), and whoever asked for the source
decides. Only a source that gives nothing at all is refused here, with the reasons of the first ones. Hidden
files are no part of a folder.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from distillation.config import FileSource, HubSource
from distillation.corpus.documents import Document, check_messages, conversation_of
from distillation.corpus.left_out import (
    MAX_PLACES,
    BadDocumentError,
    BadFileError,
    LeftOut,
    Tally,
    check_characters,
)
from distillation.corpus.sources.articles import cut_plain_text, join_article_lines
from distillation.corpus.sources.unpacking import UNPACKERS, open_unpacked, split_suffixes
from distillation.errors import CorpusError, InputError, one_line, reason_of, shorten
from distillation.reading import open_regular, parse_json, printable, status_of

Checked = TypeVar("Checked")

TEXT, LINES, TABLE = ".txt", ".jsonl", ".parquet"
SUFFIXES = (TEXT, LINES, TABLE)
PACKED_JSON = ".json"
"""Only with a packing behind it (C4, DCLM): lines. A plain `.json` may be anything, and is not read."""
_READABLE = f"{', '.join(SUFFIXES)} (the first two also with {', '.join(UNPACKERS)})"
_MAX_LINE_BYTES = 256 * 2**20
"""A line of a jsonl file beyond this ends it: a gigabyte without a line end is no list of documents."""
_MAX_PLAIN_BYTES = 4 * 2**30
"""A txt file is cut into documents in memory."""
_ROWS_A_BATCH = 1024
Row = tuple[Any, str]
"""The value of the column that is read, and where it stands, for messages; an error in place of a bad one."""


def iterate_files(source: FileSource, tally: Tally) -> Iterator[Document]:
    """Yield the documents of the file or folder `source.path`.

    Args:
        source: where to read, and the field that holds the text or the messages.
        tally: counts the documents, and what is left out.

    Raises:
        CorpusError: the path is missing, or nothing below it is a document.
    """
    root, files = _find_files(source.path, tally)
    waiting = [(path, printable(path.relative_to(root).as_posix())) for path in files]
    try:
        while waiting:
            path, name = waiting.pop(0)
            try:
                yield from documents_of(_rows(path, name, source), source, name, tally)
            except BadFileError as bad:
                tally.leave_out_file(name, bad, _size_of(path))
            except InputError as error:
                reason = one_line(error).removeprefix(f"{printable(path)}: ")
                tally.leave_out_file(name, BadFileError(reason), _size_of(path))
    finally:  # also where nobody wants more
        tally.unopened = LeftOut(
            what="files",
            cause="not needed",
            count=len(waiting),
            num_bytes=sum(_size_of(path) for path, _ in waiting),
            places=tuple(name for _, name in waiting[:MAX_PLACES]),
            by_setting=True,
        )
    if not tally.num_given and tally.entries:
        raise CorpusError(tally.reasons())


def documents_of(
    rows: Iterable[Row], source: FileSource | HubSource, name: str, tally: Tally
) -> Iterator[Document]:
    """Yield the documents of the rows of one file or split: conversations, articles, or a text a row."""
    column, _ = column_of(source)
    if source.messages_column is not None:
        talks = _good(rows, lambda value: check_messages(value, column), tally)
        for index, messages in enumerate(talks):
            tally.num_given += 1
            yield conversation_of(messages, f"{name}:{index}")
        return
    texts = _good(rows, lambda value: check_text(value, column), tally)
    for index, text in enumerate(join_article_lines(texts)):
        tally.num_given += 1
        yield Document(text, f"{name}:{index}")


def _good(rows: Iterable[Row], check: Callable[[Any], Checked], tally: Tally) -> Iterator[Checked]:
    """Yield what `check` makes of each row; a bad one is left out."""
    for value, where in rows:
        try:
            if isinstance(value, BadDocumentError):
                raise value
            checked = check(value)
        except BadDocumentError as bad:
            tally.leave_out_document(where, bad)
        else:
            yield checked


def column_of(source: FileSource | HubSource) -> tuple[str, str]:
    """Return the column that is read, and the setting that names it."""
    if source.messages_column is not None:
        return source.messages_column, "messages_column"
    return source.text_column or "text", "text_column"


def check_text(value: Any, column: str) -> str:
    """Return the text of a row; a missing value is an empty text.

    Raises:
        BadDocumentError: it is of another type, or holds what no text can.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise BadDocumentError(f"text_column = {column!r} holds {kind}, not text", "name a text column")
    return check_characters(value)


def missing_column(source: FileSource | HubSource, columns: Iterable[str]) -> BadFileError:
    """Return the error of a column that is not there, naming the columns that are."""
    column, setting = column_of(source)
    known = shorten(", ".join(sorted(map(str, columns))), 300) or "none"
    return BadFileError(f"no column {setting} = {column!r}", f"the columns are: {known}")


def _find_files(path: str, tally: Tally) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files in the order of their names."""
    if not path.strip():
        raise CorpusError("no such file or folder; give an existing one")
    root = Path(path)
    try:
        mode = status_of(root).st_mode
    except InputError as error:
        is_absent = isinstance(error.__cause__, FileNotFoundError)
        reason = "no such file or folder" if is_absent else one_line(error)
        raise CorpusError(f"{reason}; give an existing one") from None
    if not stat.S_ISDIR(mode):
        if _form_of(root.name) is None:
            raise CorpusError(f"suffix {_suffix_of(root.name)!r} is not read; give one of {_READABLE}")
        tally.num_bytes_of_files = _size_of(root)
        return root.parent, [root]

    def leave_out(place: str, cause: str, detail: str = "") -> None:
        name = printable(os.path.relpath(place, root))
        tally.leave_out_file(name, BadFileError(cause, detail), _size_of(Path(place)))

    def unlisted(error: OSError) -> None:
        place = os.fsdecode(error.filename)
        leave_out(place, f"this folder cannot be read ({reason_of(error)})", "allow it to be read")

    found: list[Path] = []
    foreign: list[str] = []
    for folder, folders, names in os.walk(root, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                leave_out(
                    os.path.join(folder, name), "a link to a folder is not followed", "name it as a source"
                )
        for name in sorted(name for name in names if not name.startswith(".")):
            place = os.path.join(folder, name)
            tally.num_bytes_of_files += _size_of(Path(place))
            if _form_of(name) is None:
                foreign.append(place)
            else:
                found.append(Path(place))
    for place in foreign:
        suffix = _suffix_of(place)
        leave_out(place, f"suffix {suffix!r} is not read" if suffix else "without a suffix it is not read")
    if not found:
        reasons = f": {tally.reasons()}" if tally.entries else ""
        raise CorpusError(f"the folder holds no {_READABLE} file{reasons}; put the documents there")
    return root, sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _form_of(name: str) -> str | None:
    """Return how a file of this name is read, None if it is not."""
    suffix, packing = split_suffixes(name)
    if packing:
        return {TEXT: TEXT, LINES: LINES, PACKED_JSON: LINES}.get(suffix)
    return suffix if suffix in SUFFIXES else None


def _suffix_of(name: str) -> str:
    return "".join(split_suffixes(os.path.basename(name)))


def _size_of(path: Path) -> int:
    """Return the size of a file; 0 of what has none, or cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    form = _form_of(path.name)
    if form == LINES:
        return _json_rows(path, name, source)
    return _parquet_rows(path, name, source) if form == TABLE else _plain_rows(path, name, source)


def _plain_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    if source.messages_column is not None:
        column = source.messages_column
        raise BadFileError(f"a txt file has no messages_column = {column!r}", "give jsonl or parquet")
    if _size_of(path) > _MAX_PLAIN_BYTES:
        size = f"{_MAX_PLAIN_BYTES / 2**30:g} GiB"
        raise BadFileError(f"is larger than {size}", "cut the file into smaller ones")
    # Bytes that are no UTF-8 become half pairs, so that they cost their own document and no other. Universal
    # newlines would also be done later, by the cleaning; cutting needs them now.
    plain = open_unpacked(path, max_bytes=_MAX_PLAIN_BYTES)
    with io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read()
    position, line = 0, 1
    for piece in cut_plain_text(text):
        begin = text.find(piece.strip("\n"), position)
        if begin > position:  # articles lose the blank lines at their ends
            line += text.count("\n", position, begin)
            position = begin
        yield piece, f"{name} line {line}"


def _json_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    column, _ = column_of(source)
    with open_unpacked(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
            if not line.strip():
                continue
            where = f"{name} line {number}"
            if len(line) >= _MAX_LINE_BYTES:
                raise BadFileError("a line is longer than 256 MiB", f"{where}; one document stands on a line")
            try:
                yield _json_value(line, source, column), where
            except BadDocumentError as bad:
                yield bad, where


def _json_value(line: bytes, source: FileSource, column: str) -> Any:
    """Return the value of the column in one line.

    Raises:
        BadDocumentError: the line is no JSON object with this field.
    """
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDocumentError(
            "invalid UTF-8", f"byte {error.start} of the line; convert the file to UTF-8"
        ) from None
    try:
        row = parse_json(text, "")
    except InputError as error:
        cause, _, detail = one_line(error).removeprefix(": ").partition(" (")
        raise BadDocumentError(cause, f"{detail.removesuffix(')') or 'cut it'}; mend or remove it") from None
    if not isinstance(row, dict):
        raise BadDocumentError(f"a line must be a JSON object with a field {column!r}")
    if column not in row:
        raise missing_column(source, row)
    return row[column]


def _parquet_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    import pyarrow.parquet as pq

    column, _ = column_of(source)
    number = 0
    try:
        with open_regular(path) as opened, pq.ParquetFile(opened) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(source, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS_A_BATCH, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield value, f"{name} row {number}"
    except (InputError, BadDocumentError, CorpusError):
        raise
    except Exception as error:  # Arrow's own kinds, and those of turning its values into Python's
        raise BadFileError(f"cannot be read as parquet ({reason_of(error)})") from None
