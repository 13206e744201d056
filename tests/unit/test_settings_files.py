"""A file of settings that is none is one line, and soon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distillation.errors import SettingsError
from pipelines.parameters import read_parameters


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deep"),
        ("a: b: c", "not valid YAML"),
        ("- a", "must hold parameters"),
        ("a: " + "b" * 2**20, "larger than 1 MiB"),
        ("a: \xff", "invalid UTF-8 at byte 3"),
    ],
)
def test_content_that_is_no_settings(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=words) as caught:
        read_parameters(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path), str(tmp_path / "absent"), "\0"):
        with pytest.raises(SettingsError, match="give a YAML file with -c"):
            read_parameters(path)
