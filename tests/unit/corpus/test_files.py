"""Local files and folders: every format, the same order, and one clear line for each fault."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillation.config import CorpusSettings, FileSource
from distillation.corpus.corpus import dataset_of
from distillation.corpus.files import _CHUNK_BYTES, iterate_files
from distillation.corpus.sources import iterate_source
from distillation.errors import CorpusError
from distillation.fingerprint import digest_of_directory


def _read(path: Path, column: str = "text") -> tuple[list[str], list[str]]:
    refused: list[str] = []
    documents = list(iterate_files(FileSource(path=str(path), text_column=column), refused.append))
    return [document.text for document in documents], refused


def test_folder_of_every_format_in_one_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.txt").write_text("not this")
    (tmp_path / "b" / "c.txt").write_text("\ufeffplain ü", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        '{"text": "first"}\n\n{"text": null, "n": 1}\n{"text": "line\\u2028end"}\n'
    )
    pq.write_table(pa.table({"text": ["x", "y"], "other": [1, 2]}), tmp_path / "d.parquet")
    (tmp_path / "notes.md").write_text("not read")
    texts, refused = _read(tmp_path)
    assert texts == ["first", "", "line\u2028end", "plain ü", "x", "y"]
    assert refused == []
    origins = [one.origin for one in iterate_source(FileSource(path=str(tmp_path)), CorpusSettings())]
    assert origins == ["a.jsonl:0", "a.jsonl:1", "a.jsonl:2", "b/c.txt:0", "d.parquet:0", "d.parquet:1"]


@pytest.mark.parametrize("offset", [0, 5, _CHUNK_BYTES - 1, _CHUNK_BYTES, _CHUNK_BYTES + 3])
def test_invalid_utf8_is_refused_with_its_offset(tmp_path, offset):
    # A character of two bytes lies across the end of the first chunk that is looked at.
    good = ("a" * (_CHUNK_BYTES - 1) + "ü" + "b" * 100).encode()
    if offset == _CHUNK_BYTES:
        good = ("a" * (_CHUNK_BYTES + 50)).encode()
    (tmp_path / "bad.txt").write_bytes(good[:offset] + b"\xff" + good[offset:])
    (tmp_path / "good.txt").write_text("fine")
    texts, refused = _read(tmp_path)
    assert texts == ["fine"]
    (reason,) = refused
    assert reason.startswith(f"bad.txt: invalid UTF-8 at byte {offset};")


def test_truncated_character_at_the_end_is_refused(tmp_path):
    (tmp_path / "bad.txt").write_bytes("abcü".encode()[:-1])
    refused: list[str] = []
    with pytest.raises(CorpusError, match=r"bad\.txt: invalid UTF-8 at byte 3"):
        list(iterate_files(FileSource(path=str(tmp_path)), refused.append))
    assert "byte 3" in refused[0]


def test_nothing_of_a_refused_file_is_used(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good line"}\n{"text": "\xe9"}\n')
    (tmp_path / "b.txt").write_text("fine")
    texts, refused = _read(tmp_path)
    assert texts == ["fine"]
    assert len(refused) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"body": "x", "id": 3}\n',
            r"a\.jsonl line 1: no column text_column = 'text'.*: body, id",
        ),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "must be a JSON object"),
        ("a.jsonl", b'{"text": 5}\n', "holds int, not text"),
        ("a.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("a.csv", b"text\nx\n", r"suffix '\.csv' is not read; give one of \.txt, \.jsonl, \.parquet"),
    ],
)
def test_faulty_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as raised:
        _read(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_parquet_column_is_named(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="the columns are: body, id"):
        _read(tmp_path / "a.parquet")
    assert _read(tmp_path / "a.parquet", "body")[0] == ["x"]
    with pytest.raises(CorpusError, match="holds int"):
        _read(tmp_path / "a.parquet", "id")


def test_missing_path_and_empty_folder(tmp_path):
    with pytest.raises(CorpusError, match="no such file or folder"):
        _read(tmp_path / "nothing")
    with pytest.raises(CorpusError, match="no such file or folder"):
        list(iterate_files(FileSource(path=" "), print))
    with pytest.raises(CorpusError, match=r"holds no \.txt, \.jsonl, \.parquet file"):
        _read(tmp_path)


def test_rows_of_wikitext_become_articles(tmp_path):
    rows = ["", " = A = \n", "", " text a \n", "", " = B = \n", "", " text b \n"]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    texts, _ = _read(tmp_path)
    assert [text.split()[-1] for text in texts] == ["a", "b"]


def _hostile_pipe(folder):
    os.mkfifo(folder / "a.txt")


def _hostile_device(folder):
    (folder / "a.jsonl").symlink_to("/dev/zero")


def _hostile_loop(folder):
    (folder / "a.parquet").symlink_to("a.parquet")


def _hostile_absent(folder):
    (folder / "a.txt").symlink_to("nowhere")


def _hostile_folder_link(folder):
    (folder / "a").symlink_to(".")


def _hostile_folder_name(folder):
    (folder / "a.txt").mkdir()
    (folder / "a.txt" / "a.txt").symlink_to("/dev/full")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_hostile_pipe, r"a\.txt: is no regular file"),
        (_hostile_device, r"a\.jsonl: is no regular file"),
        (_hostile_loop, r"a\.parquet: cannot be read \(Too many levels of symbolic links\)"),
        (_hostile_absent, r"a\.txt: cannot be read \(No such file or directory\)"),
        (_hostile_folder_link, r"a: a link to a folder is not followed"),
        (_hostile_folder_name, r"a\.txt/a\.txt: is no regular file"),
    ],
)
def test_what_is_no_file_is_left_out_with_its_reason(tmp_path, make, reason):
    make(tmp_path)
    (tmp_path / "good.txt").write_text("fine")
    texts, refused = _read(tmp_path)
    assert texts == ["fine"]
    assert len(refused) == 1
    assert re.match(reason, refused[0])
    digest_of_directory(tmp_path)  # the fingerprint of the step; it would hang or raise
    (tmp_path / "good.txt").unlink()
    with pytest.raises(CorpusError) as raised:
        _read(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_plain_text_beyond_the_bound_is_left_out(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**42)  # sparse: nothing is on the disk
    with pytest.raises(CorpusError, match=r"a\.txt: is larger than 4 GiB; cut the file into smaller ones"):
        _read(tmp_path)


def test_a_pipe_as_the_source_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(CorpusError, match=r"a\.jsonl: is no regular file"):
        _read(tmp_path / "a.jsonl")
    for path in ("\0", "a" * 5000):
        with pytest.raises(CorpusError):
            list(iterate_files(FileSource(path=path), print))


def test_a_name_that_is_no_text_is_read_and_written_as_its_bytes(tmp_path):
    for name in (b"caf\xe9.txt", b"caf\xe9.parquet"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
        if path.suffix == ".txt":
            path.write_text("plain")
        else:
            with path.open("wb") as file:
                pq.write_table(pa.table({"text": ["row"]}), file)
    documents = list(iterate_files(FileSource(path=str(tmp_path)), print))
    assert [one.origin for one in documents] == ["caf\\xe9.parquet:0", "caf\\xe9.txt:0"]
    assert [one.text for one in documents] == ["row", "plain"]
    dataset_of(documents)
    digest_of_directory(tmp_path)


def test_what_the_user_may_not_read_is_left_out(as_nobody):
    folder = as_nobody
    for name in ("locked.txt", "good.txt"):
        (folder / name).write_text("fine")
    (folder / "closed").mkdir()
    (folder / "locked.txt").chmod(0)
    (folder / "closed").chmod(0)
    texts, refused = _read(folder)
    assert texts == ["fine"]
    assert [reason.split(" (")[0] for reason in sorted(refused)] == [
        "closed: this folder cannot be read",
        "locked.txt: cannot be read",
    ]
    digest_of_directory(folder)
    (folder / "closed").chmod(0o700)


@pytest.mark.parametrize("line", ['{"text": ' + "[" * 100_000, '{"text": 1' + "0" * 5000 + "}"])
def test_json_that_breaks_the_parser_is_one_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl line 1: .*; mend or remove it"):
        _read(tmp_path)
