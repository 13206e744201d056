"""Whole files and folders, or none; answers in time, or none."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distillation.files import new_directory, write_atomically
from distillation.hub import answer_within


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([65 + number]) * 100_000 for number in range(8)]
    write_atomically(path, contents[0])
    seen: set[bytes] = set()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(path, content), contents * 4))
    is_over.set()
    reader.join()
    assert seen <= set(contents)
    assert [file.name for file in tmp_path.iterdir()] == ["file"], "no draft is left"


def test_a_folder_is_put_in_place_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "folder"
    with new_directory(final) as draft:
        (draft / "new").touch()
        assert not final.exists()
    assert [file.name for file in final.iterdir()] == ["new"]

    def fail_half_way() -> None:
        with new_directory(final) as draft:
            (draft / "half").touch()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail_half_way()
    assert [file.name for file in final.iterdir()] == ["new"], "a failure leaves what was there"
    with new_directory(final) as draft:
        (draft / "newer").touch()
    assert [file.name for file in final.iterdir()] == ["newer"]
    assert [file.name for file in final.parent.iterdir()] == ["folder"], "no draft is left"


def test_an_answer_an_error_or_nothing() -> None:
    def fail() -> int:
        raise ConnectionError("refused")

    assert answer_within(lambda: 200, 5.0) == 200
    assert isinstance(answer_within(fail, 5.0), ConnectionError)
    begin = time.perf_counter()
    assert answer_within(lambda: time.sleep(3.0), 0.05) is None
    assert time.perf_counter() - begin < 2.0
