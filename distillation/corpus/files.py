"""Local documents: txt, jsonl and parquet files, and folders of them, always in the same order.

A txt or jsonl file that is not valid UTF-8 is refused as a whole, before any of its documents is used, with
the offset of the first bad byte; the other files of its folder are still read. So is what cannot be read at
all: a pipe, a device, a loop of links, a file or folder that the user may not open. Files whose *structure*
is wrong (broken JSON, no such column, no parquet at all) refuse the source: the setting is then likely wrong.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from distillation.config import FileSource, HubSource
from distillation.corpus.articles import cut_plain_text, join_article_lines
from distillation.corpus.documents import Document, check_messages, conversation_of
from distillation.errors import CorpusError, InputError, one_line, reason_of
from distillation.reading import open_regular, parse_json, printable, status_of

SUFFIXES = (".txt", ".jsonl", ".parquet")
_CHUNK_BYTES = 1 << 20
_MAX_LINE_CHARACTERS = 256 * 2**20
"""A line of a jsonl file beyond this is refused: a gigabyte without a line end is no list of documents."""
_MAX_PLAIN_BYTES = 4 * 2**30
"""A txt file is cut into documents in memory."""
_ROWS_A_BATCH = 1024
Row = tuple[Any, str]
"""The value of the column that is read, and where it stands, for messages."""


def iterate_files(source: FileSource, refuse: Callable[[str], None]) -> Iterator[Document]:
    """Yield the documents of the file or folder `source.path`.

    Args:
        source: where to read, and the field that holds the text or the messages.
        refuse: called with the reason for each file that is left out.

    Raises:
        CorpusError: the path is missing or holds no readable file, or a file's structure is wrong.
    """
    reasons: list[str] = []

    def leave_out(reason: str) -> None:
        reasons.append(reason)
        refuse(reason)

    root, files = _find_files(source.path, leave_out)
    num_read = 0
    for path in files:
        name = printable(path.relative_to(root).as_posix())
        try:
            problem = _why_unreadable(path)
        except InputError as error:
            problem = one_line(error).removeprefix(f"{printable(path)}: ")
        if problem is not None:
            leave_out(f"{name}: {problem}")
            continue
        num_read += 1
        yield from documents_of(_rows(path, name, source), source, name)
    if not num_read:
        more = f"; and {len(reasons) - 3} more files" if len(reasons) > 3 else ""
        raise CorpusError("; ".join(reasons[:3]) + more)


def documents_of(rows: Iterable[Row], source: FileSource | HubSource, name: str) -> Iterator[Document]:
    """Yield the documents of the rows of one file or split: conversations, articles, or a text a row."""
    if source.messages_column is not None:
        for index, (value, where) in enumerate(rows):
            messages = check_messages(value, source.messages_column, where)
            yield conversation_of(messages, f"{name}:{index}")
        return
    column, _ = column_of(source)
    texts = (check_text(value, column, where) for value, where in rows)
    for index, text in enumerate(join_article_lines(texts)):
        yield Document(text, f"{name}:{index}")


def column_of(source: FileSource | HubSource) -> tuple[str, str]:
    """Return the column that is read, and the setting that names it."""
    if source.messages_column is not None:
        return source.messages_column, "messages_column"
    return source.text_column or "text", "text_column"


def check_text(value: Any, column: str, where: str) -> str:
    """Return the text of a row; a missing value is an empty text, any other type an error."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}: text_column = {column!r} holds {type(value).__name__}, not text; name a text column"
        )
    return value


def missing_column(source: FileSource | HubSource, columns: Iterable[str], where: str) -> CorpusError:
    """Return the error of a column that is not there, naming the columns that are."""
    column, setting = column_of(source)
    known = ", ".join(sorted(map(str, columns))) or "none"
    return CorpusError(f"{where}: no column {setting} = {column!r}; the columns are: {known}")


def _find_files(path: str, leave_out: Callable[[str], None]) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files in the order of their names.

    Folders below it that cannot be listed are handed to `leave_out`.
    """
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
        if root.suffix.lower() not in SUFFIXES:
            raise CorpusError(f"suffix {root.suffix!r} is not read; give one of {', '.join(SUFFIXES)}")
        return root.parent, [root]

    def unlisted(error: OSError) -> None:
        name = os.path.relpath(os.fsdecode(error.filename), root)
        leave_out(f"{printable(name)}: this folder cannot be read ({reason_of(error)}); allow it to be read")

    found: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                linked = os.path.relpath(os.path.join(folder, name), root)
                leave_out(f"{printable(linked)}: a link to a folder is not followed; name it as a source")
        found += [
            Path(folder) / name
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        raise CorpusError(f"the folder holds no {', '.join(SUFFIXES)} file; put the documents there")
    return root, sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _why_unreadable(path: Path) -> str | None:
    """Return why a file is left out as a whole, or None.

    Raises:
        InputError: it cannot be opened, or is no regular file.
    """
    with open_regular(path) as file:
        if path.suffix.lower() == ".parquet":
            return None
        size = os.fstat(file.fileno()).st_size
        if path.suffix.lower() == ".txt" and size > _MAX_PLAIN_BYTES:
            return f"is larger than {_MAX_PLAIN_BYTES / 2**30:g} GiB; cut the file into smaller ones"
        offset = _invalid_utf8_offset(file)
        return None if offset is None else f"invalid UTF-8 at byte {offset}; convert the file to UTF-8"


def _invalid_utf8_offset(file: BinaryIO) -> int | None:
    """Return the offset of the first byte that is not UTF-8, or None."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_read = 0
    while True:
        chunk = file.read(_CHUNK_BYTES)
        # A character may straddle two chunks: the decoder keeps its first bytes.
        num_pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            return num_read - num_pending + error.start
        if not chunk:
            return None
        num_read += len(chunk)


def _rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _json_rows(path, name, source)
    elif suffix == ".parquet":
        yield from _parquet_rows(path, name, source)
    elif source.messages_column is not None:
        raise CorpusError(
            f"{name}: a txt file has no messages_column = {source.messages_column!r}; give jsonl or parquet"
        )
    else:
        # Universal newlines would also be done later, by the cleaning; cutting needs them now.
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
            yield from ((text, name) for text in cut_plain_text(file.read()))


def _json_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    column, _ = column_of(source)
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_CHARACTERS), ""), start=1):
            if not line.strip():
                continue
            where = f"{name} line {number}"
            if len(line) >= _MAX_LINE_CHARACTERS:
                raise CorpusError(f"{where}: is longer than 256 Mi characters; one document stands on a line")
            try:
                row = parse_json(line, where)
            except InputError as error:
                raise CorpusError(f"{one_line(error)}; mend or remove it") from None
            if not isinstance(row, dict):
                raise CorpusError(f"{where}: a line must be a JSON object with a field {column!r}")
            if column not in row:
                raise missing_column(source, row, where)
            yield row[column], where


def _parquet_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    import pyarrow.parquet as pq

    column, _ = column_of(source)
    try:
        with open_regular(path) as opened, pq.ParquetFile(opened) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(source, file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=_ROWS_A_BATCH, columns=[column]):
                yield from ((value, name) for value in batch.column(0).to_pylist())
    except CorpusError:
        raise
    except Exception as error:  # Arrow's own kinds, and those of turning its values into Python's
        raise CorpusError(f"{name}: cannot be read as parquet ({one_line(error)})") from None
