"""Local files and folders: every format, the same order, and one clear line for each fault."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillation.config import CorpusSettings, FileSource
from distillation.corpus.corpus import dataset_of
from distillation.corpus.left_out import Tally
from distillation.corpus.sources.base import iterate_source
from distillation.corpus.sources.files import iterate_files
from distillation.errors import CorpusError
from distillation.fingerprint import digest_of_directory


def _read(path: Path, column: str = "text") -> tuple[list[str], list[str]]:
    tally = Tally()
    documents = list(iterate_files(FileSource(path=str(path), text_column=column), tally))
    assert tally.num_given == len(documents)
    return [document.text for document in documents], [one.describe() for one in tally.entries.values()]


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
    assert refused == ["1 file: suffix '.md' is not read (notes.md)"]
    origins = [one.origin for one in iterate_source(FileSource(path=str(tmp_path)), CorpusSettings())]
    assert origins == ["a.jsonl:0", "a.jsonl:1", "a.jsonl:2", "b/c.txt:0", "d.parquet:0", "d.parquet:1"]


def test_a_byte_that_is_no_text_costs_its_own_document(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n{"text": "more"}\n')
    pieces = ["".join(f"line {n} of piece {piece}\n" for n in range(120)) + "\n" for piece in range(9)]
    (tmp_path / "b.txt").write_bytes("".join(pieces).encode().replace(b"line 7 of piece 4", b"line \xff"))
    (tmp_path / "c.txt").write_bytes("abcü".encode()[:-1])
    texts, refused = _read(tmp_path)
    assert refused == ["3 documents: invalid UTF-8; byte 13 of the line; convert the file to UTF-8 "
                       "(a.jsonl line 2, b.txt line 485, c.txt line 1)"]  # fmt: skip
    assert texts[:2] == ["good", "more"]
    assert "".join(texts[2:]) == "".join(piece for index, piece in enumerate(pieces) if index != 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"body": "x", "id": 3}\n',
            r"a\.jsonl line 1: no column text_column = 'text'.*: body, id",
        ),
        ("a.jsonl", b'{"text": \n', r"a\.jsonl line 1: not JSON"),
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
        list(iterate_files(FileSource(path=" "), Tally()))
    with pytest.raises(CorpusError, match=r"holds no \.txt, \.jsonl, \.parquet \(.*\) file"):
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
    name, _, cause = reason.partition(": ")
    assert re.fullmatch(rf"1 file: {cause}.* \({name}\)", refused[0])
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
            list(iterate_files(FileSource(path=path), Tally()))


def test_a_name_that_is_no_text_is_read_and_written_as_its_bytes(tmp_path):
    for name in (b"caf\xe9.txt", b"caf\xe9.parquet"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
        if path.suffix == ".txt":
            path.write_text("plain")
        else:
            with path.open("wb") as file:
                pq.write_table(pa.table({"text": ["row"]}), file)
    documents = list(iterate_files(FileSource(path=str(tmp_path)), Tally()))
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
    assert [(reason.split(" (")[0], reason.split(" (")[-1]) for reason in sorted(refused)] == [
        ("1 file: cannot be read", "locked.txt)"),
        ("1 file: this folder cannot be read", "closed)"),
    ]
    digest_of_directory(folder)
    (folder / "closed").chmod(0o700)


@pytest.mark.parametrize("line", ['{"text": ' + "[" * 100_000, '{"text": 1' + "0" * 5000 + "}"])
def test_json_that_breaks_the_parser_is_one_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl line 1: .*; mend or remove it"):
        _read(tmp_path)


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_are_read(tmp_path, suffix):
    pack = PACKERS[suffix]
    rows = [json.dumps({"text": f"row {n} é"}) + "\n" for n in range(5)]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack("".join(rows[:2]).encode()) + pack(rows[2].encode()))
    (tmp_path / f"b.json{suffix.upper()}").write_bytes(pack(rows[3].encode()))
    (tmp_path / f"c.txt{suffix}").write_bytes(pack("plain é".encode()))
    (tmp_path / f"d.tar{suffix}").write_bytes(pack(b"x"))
    (tmp_path / "e.json").write_text(rows[4])
    texts, refused = _read(tmp_path)
    assert texts == ["row 0 é", "row 1 é", "row 2 é", "row 3 é", "plain é"]
    assert refused == [
        f"1 file: suffix '.tar{suffix}' is not read (d.tar{suffix})",
        "1 file: suffix '.json' is not read (e.json)",
    ]
    assert _read(tmp_path / f"c.txt{suffix}") == (["plain é"], [])


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_damaged_or_endless_packed_file_costs_no_other(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("distillation.corpus.sources.unpacking.MIN_ALLOWED_BYTES", 2**20)
    pack = PACKERS[suffix]
    lines = "".join(json.dumps({"text": f"{n} {n * 7919 % 10007}"}) + "\n" for n in range(3000)).encode()
    (tmp_path / f"cut.jsonl{suffix}").write_bytes(pack(lines)[:-40])
    (tmp_path / f"bomb.txt{suffix}").write_bytes(pack(b"\n" * 2**26))
    (tmp_path / f"lie.txt{suffix}").write_bytes(b"this is not packed")
    (tmp_path / "good.txt").write_text("fine")
    texts, refused = _read(tmp_path)
    assert texts[-1] == "fine"
    assert len(texts) < 3001
    assert any(f"bomb.txt{suffix}" in line and "unpacks to more than" in line for line in refused)
    assert any(f"lie.txt{suffix}" in line and "cannot be unpacked" in line for line in refused)
    assert f"cut.jsonl{suffix}" in " ".join(refused)


def test_bad_rows_are_left_out_with_their_places(tmp_path):
    rows = [
        {"text": "good"},
        {"text": "a\0b"},
        {"text": "cut \ud83d"},
        {"text": 5},
        {"body": "x"},
        [1],
        {"text": "last"},
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:3], "{", "[" * 100_000, *lines[3:]]) + "\n")
    pq.write_table(pa.table({"text": ["one", "a\0b", "two"]}), tmp_path / "b.parquet")
    texts, refused = _read(tmp_path)
    assert texts == ["good", "last", "one", "two"]
    assert [re.sub(r";.* \(", " (", line) for line in refused] == [
        "2 documents: holds a NUL character (a.jsonl line 2, b.parquet row 2)",
        "1 document: invalid UTF-8 (a.jsonl line 3)",
        "1 document: not JSON (a.jsonl line 4)",
        "1 document: JSON is nested too deep (a.jsonl line 5)",
        "1 document: text_column = 'text' holds int, not text (a.jsonl line 6)",
        "1 document: no column text_column = 'text' (a.jsonl line 7)",
        "1 document: a line must be a JSON object with a field 'text' (a.jsonl line 8)",
    ]


def test_a_damaged_parquet_and_one_without_the_column_cost_no_other(tmp_path):
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    texts, refused = _read(tmp_path)
    assert texts == ["one"]
    assert [line.split(";")[0].split(" (")[0] for line in refused] == [
        "1 file: no column text_column = 'text'",
        "1 file: cannot be read as parquet",
    ]


def test_a_source_of_nothing_good_ends_soon(tmp_path):
    with (tmp_path / "a.jsonl").open("w") as file:
        file.writelines('{"body": "x"}\n' for _ in range(1500))
        file.write("{" + "x" * 100)
    with pytest.raises(CorpusError, match=r"a\.jsonl line 1: no column text_column = 'text'; .*: body"):
        _read(tmp_path / "a.jsonl")


def test_thousands_of_suffixes_are_one_cause(tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    for number in range(60):
        (tmp_path / f"x.{number}").write_text("?")
    _, refused = _read(tmp_path)
    assert len(refused) == 21
    assert refused[-1].startswith("40 files: other causes (")
