"""Aligners kept by content: found again, never trusted when damaged, shared by processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from alignment_reference import END, trained_byte_level
from tokenizers import Tokenizer

from distillation.aligners import build
from distillation.aligners import store as cache
from distillation.aligners.base import Aligner
from distillation.aligners.build import ALIGNERS, build_aligner, load_aligner
from distillation.errors import AlignmentError

ROOT = Path(__file__).resolve().parents[3]
TEACHER, STUDENT = trained_byte_level(420), trained_byte_level(310, split_digits=True)


def built(folder: Path | None, strategy: str = "prefix", **other: Any) -> Aligner:
    ingredients = {"teacher_tokenizer": TEACHER, "student_tokenizer": STUDENT}
    ingredients |= {"num_teacher_rows": 430, "num_student_rows": 315} | other
    return build_aligner(strategy, **ingredients, cache_dir=folder)


def assert_same(one: Aligner, other: Aligner) -> None:
    assert type(one) is type(other)
    assert one.details == other.details
    assert one.tables.keys() == other.tables.keys()
    assert all(torch.equal(table, other.tables[name]) for name, table in one.tables.items())
    assert one.content_digest() == other.content_digest()


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("strategy", list(ALIGNERS))
def test_an_entry_is_what_building_gives(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built(tmp_path / "deep", strategy)
    (entry,) = entries(tmp_path / "deep")
    assert {path.name for path in entry.iterdir()} == {"aligner.json", "aligner.safetensors"}

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build, "pair_vocabularies", refuse)
    again = built(tmp_path / "deep", strategy)
    assert_same(again, first)
    assert_same(load_aligner(entry), first)
    with pytest.raises(AssertionError, match="built again"):
        built(None, strategy)


def test_the_key_is_the_content(tmp_path: Path) -> None:
    more = Tokenizer.from_str(STUDENT.to_str())
    more.add_tokens(["    "])
    special = Tokenizer.from_str(STUDENT.to_str())
    special.add_special_tokens(["<|x|>"])
    role = SimpleNamespace(backend_tokenizer=STUDENT, all_special_ids=[], eos_token_id=7)
    hidden = SimpleNamespace(backend_tokenizer=STUDENT, all_special_ids=[7], eos_token_id=None)
    variants: list[dict[str, Any]] = [
        {},
        {"strategy": "projection"},
        {"num_teacher_rows": 431},
        {"num_student_rows": 316},
        {"student_tokenizer": more},
        {"student_tokenizer": special},
        {"student_tokenizer": role},
        {"student_tokenizer": hidden},
        {"teacher_tokenizer": STUDENT, "student_tokenizer": TEACHER, "num_student_rows": 430},
    ]
    for number, variant in enumerate(variants, start=1):
        built(tmp_path, **variant)
        assert len(entries(tmp_path)) == number, variant


def test_what_does_not_matter_is_not_in_the_key(tmp_path: Path) -> None:
    first = built(tmp_path)
    copy = Tokenizer.from_str(STUDENT.to_str())
    copy.enable_padding(pad_token=END, length=9)
    copy.enable_truncation(5)
    assert_same(built(tmp_path, student_tokenizer=copy), first)
    assert_same(built(tmp_path, student_tokenizer=SimpleNamespace(backend_tokenizer=copy)), first)
    assert len(entries(tmp_path)) == 1


def test_edited_code_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path)
    monkeypatch.setattr(cache, "digest_of_sources", lambda *modules: "edited")
    built(tmp_path)
    assert len(entries(tmp_path)) == 2


def damage(entry: Path, how: str) -> None:
    tables, settings = entry / "aligner.safetensors", entry / "aligner.json"
    content = tables.read_bytes()
    middle = len(content) // 2
    if how == "flipped":
        tables.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    elif how == "cut":
        tables.write_bytes(content[:-9])
    elif how == "empty":
        tables.write_bytes(b"")
    elif how == "missing":
        tables.unlink()
    elif how == "edited":
        settings.write_text(
            settings.read_text().replace('"num_student_rows": 315', '"num_student_rows": 316')
        )
    elif how == "unsealed":
        settings.write_text('{"format": 2, "name": "prefix"}')
    elif how == "no object":
        settings.write_text('["format", 2]')
    else:
        settings.write_text(settings.read_text()[:40])


DAMAGES = ["flipped", "cut", "empty", "missing", "edited", "unsealed", "no object", "half"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_entry_is_built_again(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = built(tmp_path)
    (entry,) = entries(tmp_path)
    content = {path.name: path.read_bytes() for path in entry.iterdir()}
    damage(entry, how)
    with pytest.raises(AlignmentError, match="build the aligner again"):
        load_aligner(entry)
    with caplog.at_level(logging.WARNING):
        again = built(tmp_path)
    assert "damaged and is built again" in caplog.text
    assert_same(again, first)
    assert content == {path.name: path.read_bytes() for path in entry.iterdir()}
    caplog.clear()
    assert_same(built(tmp_path), first)
    assert not caplog.text


def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert_same(built(tmp_path / "file" / "aligners"), built(None))
    assert "cannot be written" in caplog.text


def test_users_mistakes_are_told_as_without_a_cache(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(AlignmentError, match="the output layer has 5 rows"):
            built(folder, num_student_rows=5)
        with pytest.raises(AlignmentError, match="has no fast implementation"):
            built(folder, student_tokenizer=object())
    assert not entries(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_tables_are_mapped(tmp_path: Path) -> None:
    built(tmp_path)
    again = built(tmp_path)
    (entry,) = entries(tmp_path)
    ranges = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(f"{entry.name}/aligner.safetensors")
    ]
    for table in again.tables.values():
        assert any(begin <= table.data_ptr() < end for begin, end in ranges)
    kept = {name: table.clone() for name, table in again.tables.items()}
    built(None).save(entry)  # An entry that is replaced does not pull the ground away.
    assert all(torch.equal(table, kept[name]) for name, table in again.tables.items())


def test_threads_and_processes_share_a_folder(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path[:0] = ['tests/unit', 'tests/unit/aligners'];"
        "from test_aligner_store import built; from pathlib import Path;"
        "print(built(Path(sys.argv[1])).content_digest())"
    )
    expected = built(None).content_digest()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    with ThreadPoolExecutor(4) as pool:
        digests = [aligner.content_digest() for aligner in pool.map(built, [tmp_path] * 8)]
    digests += [process.communicate(timeout=120)[0].strip() for process in processes]
    assert digests == [expected] * 10
    (entry,) = entries(tmp_path)
    assert {path.name for path in entry.iterdir()} == {"aligner.json", "aligner.safetensors"}
