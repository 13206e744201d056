"""Content hashes change with content and with nothing else."""

from __future__ import annotations

from pathlib import Path

from distillation.config import Settings, parse_settings
from distillation.fingerprint import digest_of, digest_of_directory


def test_order_of_keys_does_not_matter_and_values_do() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of(Settings()) == digest_of(parse_settings({}))
    assert digest_of(Settings()) != digest_of(parse_settings({"seed": 1}))


def test_directories_by_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("2")
    first = digest_of_directory(tmp_path)
    only_json = digest_of_directory(tmp_path, (".json",))
    (tmp_path / "sub" / "b.txt").write_text("3")
    assert digest_of_directory(tmp_path) != first
    assert digest_of_directory(tmp_path, (".json",)) == only_json
    (tmp_path / "a.json").rename(tmp_path / "c.json")
    assert digest_of_directory(tmp_path, (".json",)) != only_json
