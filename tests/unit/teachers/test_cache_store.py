"""Files of the teacher cache: what is read is what was written, damage is found, locks end with a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from distillation.config import CacheSettings
from distillation.errors import JobError
from distillation.teachers.cache.entries import WindowEntries, window_key
from distillation.teachers.cache.store import CacheReader, CacheStore, TeacherCache, shard_name
from distillation.tokenizers.pairs import EncodedPair, EncodedText

ROOT = Path(__file__).resolve().parents[3]


def make_window(random: np.random.Generator, kind: str, with_log_probs: bool) -> WindowEntries:
    """A window with positions without a target, and sometimes with none at all."""
    num_tokens = int(random.integers(1, 40))
    num_entries_T = random.integers(0, 6, num_tokens).astype(np.uint8) * (random.random() > 0.2)
    num_entries = int(num_entries_T.sum())
    if kind == "sampling":
        # As a sample has them: those above 1 first in each position.
        rows = [
            sorted(random.integers(1, 4, num).tolist(), key=lambda count: count == 1) for num in num_entries_T
        ]
        weight_E = np.asarray([count for row in rows for count in row], np.uint8)
    else:
        weight_E = random.random(num_entries).astype(np.float16)
    log_probs = -random.random((7, 2)) * 9
    return WindowEntries(
        num_entries_T=num_entries_T.astype(np.uint8),
        id_E=random.integers(0, 50_000, num_entries).astype(np.uint16),
        weight_E=weight_E,
        tail_T=random.random(num_tokens if kind == "top_k" else 0).astype(np.float16),
        residual=np.asarray(random.random(), np.float32),
        log_probs_S2=(log_probs if with_log_probs else log_probs[:0]).astype(np.float16),
    )


def make_keys(num: int, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [random.bytes(16) for _ in range(num)]


def assert_equal(found: WindowEntries, expected: WindowEntries) -> None:
    for name in WindowEntries.__dataclass_fields__:
        one, other = getattr(found, name), getattr(expected, name)
        assert one.shape == other.shape, name
        assert np.array_equal(one, other), name


@pytest.mark.parametrize("kind", ["sampling", "top_k"])
@pytest.mark.parametrize("with_log_probs", [False, True])
def test_what_is_read_is_what_was_written(tmp_path: Path, kind: str, with_log_probs: bool) -> None:
    random = np.random.default_rng(1)
    keys, store = make_keys(30), CacheStore(tmp_path)
    windows = {key: make_window(random, kind, with_log_probs) for key in keys}
    for begin in range(0, 30, 8):
        part = keys[begin : begin + 8]
        store.write(part, [windows[key] for key in part])
    reader = CacheReader(tmp_path)
    reader.check()
    for key in reversed(keys):
        assert_equal(reader.read(key), windows[key])
    assert make_keys(1, seed=9)[0] not in reader
    record = store.record(shard_name(keys[:8]))
    assert record is not None
    assert record["num_tokens"] == sum(len(windows[key].num_entries_T) for key in keys[:8])
    assert record["num_entries"] == sum(len(windows[key].id_E) for key in keys[:8])
    leftovers = [path.name for path in (tmp_path / "shards").iterdir() if path.name.startswith(".")]
    assert not leftovers


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_one_damaged_byte_is_found(tmp_path: Path, place: float) -> None:
    random = np.random.default_rng(2)
    keys, store = make_keys(4), CacheStore(tmp_path)
    store.write(keys, [make_window(random, "sampling", False) for _ in keys])
    name = shard_name(keys)
    assert store.is_whole(name)
    path = tmp_path / "shards" / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert not store.is_whole(name)
    with pytest.raises(JobError, match=rf"{name}\.safetensors: damaged; run the pipeline again"):
        CacheReader(tmp_path).check()
    path.unlink()
    assert not store.is_whole(name)
    with pytest.raises(JobError, match="damaged"):
        CacheReader(tmp_path).check()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sha256": "', None])
def test_a_damaged_record_is_a_shard_to_be_made_anew(tmp_path: Path, content: bytes | None) -> None:
    random = np.random.default_rng(2)
    keys, store = make_keys(4), CacheStore(tmp_path)
    store.write(keys, [make_window(random, "sampling", False) for _ in keys])
    path = tmp_path / "shards" / f"{shard_name(keys)}.json"
    path.write_bytes(
        path.read_bytes().replace(b'"num_windows": 4', b'"num_windows": 5') if content is None else content
    )
    assert store.record(shard_name(keys)) is None
    assert not store.is_whole(shard_name(keys))
    with pytest.raises(JobError, match="damaged; run the pipeline again"):
        CacheReader(tmp_path).check()


def test_another_cache_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    keys, store = make_keys(4), CacheStore(tmp_path)
    store.write(keys, [make_window(random, "top_k", True) for _ in keys])
    record = store.record(shard_name(keys))
    assert record is not None
    shards = {shard_name(keys): record["sha256"]}
    cache = TeacherCache(directory=tmp_path, settings=CacheSettings(kind="top_k"), shards=shards, metrics={})
    CacheReader(tmp_path).check(cache.digest)
    store.write(keys, [make_window(random, "top_k", True) for _ in keys])
    with pytest.raises(JobError, match="not the one of this job"):
        CacheReader(tmp_path).check(cache.digest)


def test_a_plan_only_grows(tmp_path: Path) -> None:
    keys, store = make_keys(25), CacheStore(tmp_path)
    first = store.plan(keys[:20], 8)
    assert [key for shard in first for key in shard] == keys[:20]
    assert [len(shard) for shard in first] == [8, 8, 4]
    assert store.plan(keys[5:15], 3) == first
    grown = store.plan(keys, 8)
    assert grown[:3] == first
    assert grown[3:] == [tuple(keys[20:])]


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_plan_is_told_and_its_windows_are_planned_anew(tmp_path: Path, caplog, number: int) -> None:
    keys, store = make_keys(25), CacheStore(tmp_path)
    store.plan(keys[:16], 8)
    shards = store.plan(keys, 8)
    path = tmp_path / "plans" / f"{number:04d}.json"
    path.write_bytes(path.read_bytes()[:-9])
    assert set(store.plan(keys, 8)) == set(shards)
    assert store.planned() == shards
    [record] = caplog.records
    assert f"{number:04d}.json" in record.getMessage()
    assert "planned anew" in record.getMessage()


def test_plans_of_many_at_once_are_one(tmp_path: Path) -> None:
    keys, found = make_keys(400), []
    barrier = threading.Barrier(8)

    def plan() -> None:
        barrier.wait()
        found.append(CacheStore(tmp_path).plan(keys, 16))

    threads = [threading.Thread(target=plan) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(one == found[0] for one in found)
    assert sorted(key for shard in found[0] for key in shard) == sorted(keys)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from distillation.teachers.cache.store import CacheStore\n"
        f"store = CacheStore({str(tmp_path)!r})\n"
        "with store.claim(3, wait=False) as mine:\n"
        "    print(mine, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "True"
        store = CacheStore(tmp_path)
        with store.claim(3, wait=False) as mine:
            assert not mine
        with store.claim(4, wait=False) as mine:
            assert mine
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with store.claim(3, wait=False) as mine:
        assert mine


def test_links_cost_nothing_and_outlive_a_repair(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    keys, store = make_keys(3), CacheStore(tmp_path / "cache")
    windows = [make_window(random, "sampling", False) for _ in keys]
    store.write(keys, windows)
    (tmp_path / "cache" / "identity.json").write_text(json.dumps({}))
    store.link_into(tmp_path / "job", [shard_name(keys)])
    source = tmp_path / "cache" / "shards" / f"{shard_name(keys)}.safetensors"
    target = tmp_path / "job" / "shards" / source.name
    assert os.path.samefile(source, target)
    store.write(keys, windows)
    assert not os.path.samefile(source, target)
    for key, window in zip(keys, windows, strict=True):
        assert_equal(CacheReader(tmp_path / "job").read(key), window)


def test_a_key_tells_windows_apart() -> None:
    def text(*ids: int) -> EncodedText:
        return EncodedText(np.asarray(ids, np.int32), np.arange(1, len(ids) + 1, dtype=np.int32))

    def pair(teacher: tuple[int, ...], student: tuple[int, ...], trained: list[bool] | None) -> bytes:
        mask = None if trained is None else np.asarray(trained)
        return window_key(EncodedPair(text(*teacher), text(*student), 3, mask))

    keys = [
        pair((1, 2), (3,), None),
        pair((1,), (2, 3), None),
        pair((1, 2, 3), (), None),
        pair((1, 2), (4,), None),
        pair((1, 2), (3, 4), [True, False]),
        pair((1, 2), (3, 4), [False, True]),
        pair((1, 2), (3, 4), None),
    ]
    assert len(set(keys)) == len(keys)
    assert pair((1, 2), (3,), None) == keys[0]
