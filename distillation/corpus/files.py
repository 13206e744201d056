"""Local documents: txt, jsonl and parquet files, and folders of them, always in the same order.

A txt or jsonl file that is not valid UTF-8 is refused as a whole, before any of its documents is used, with
the offset of the first bad byte; the other files of its folder are still read. Files whose *structure* is
wrong (broken JSON, no such column, no parquet at all) refuse the source: the setting is then likely wrong.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from distillation.config import FileSource, HubSource
from distillation.corpus.articles import cut_plain_text, join_article_lines
from distillation.corpus.documents import Document, check_messages, conversation_of
from distillation.errors import CorpusError, one_line

SUFFIXES = (".txt", ".jsonl", ".parquet")
_CHUNK_BYTES = 1 << 20
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
    root, files = _find_files(source.path)
    reasons: list[str] = []
    for path in files:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() != ".parquet":
            offset = _invalid_utf8_offset(path)
            if offset is not None:
                reasons.append(f"{name}: invalid UTF-8 at byte {offset}; convert the file to UTF-8")
                refuse(reasons[-1])
                continue
        yield from documents_of(_rows(path, name, source), source, name)
    if len(reasons) == len(files):
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


def _find_files(path: str) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files in the order of their names."""
    root = Path(path)
    if not path.strip() or not root.exists():
        raise CorpusError("no such file or folder; give an existing one")
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise CorpusError(f"suffix {root.suffix!r} is not read; give one of {', '.join(SUFFIXES)}")
        return root.parent, [root]
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder) / name
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        raise CorpusError(f"the folder holds no {', '.join(SUFFIXES)} file; put the documents there")
    return root, sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _invalid_utf8_offset(path: Path) -> int | None:
    """Return the offset of the first byte that is not UTF-8, or None."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_read = 0
    with path.open("rb") as file:
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
        with path.open(encoding="utf-8-sig") as file:
            yield from ((text, name) for text in cut_plain_text(file.read()))


def _json_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    column, _ = column_of(source)
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{name} line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CorpusError(f"{where}: not JSON ({one_line(error)}); mend or remove it") from None
            if not isinstance(row, dict):
                raise CorpusError(f"{where}: a line must be a JSON object with a field {column!r}")
            if column not in row:
                raise missing_column(source, row, where)
            yield row[column], where


def _parquet_rows(path: Path, name: str, source: FileSource) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column, _ = column_of(source)
    try:
        with pq.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(source, file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=_ROWS_A_BATCH, columns=[column]):
                yield from ((value, name) for value in batch.column(0).to_pylist())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{name}: cannot be read as parquet ({one_line(error)})") from None
