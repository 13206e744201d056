"""The benchmark of alignment, on a tiny pair: it measures all parts and says what on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.alignment import main


def test_every_part_is_measured(
    tiny_teacher_dir: Path,
    tiny_student_dir: Path,
    english_documents: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "".join(english_documents[:8])
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    command = ["--teacher", str(tiny_teacher_dir), "--student", str(tiny_student_dir), "--repeats", "1"]
    assert main([*command, "--json", str(tmp_path / "text.txt")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_bytes"] == len(text.encode())
    assert result["num_refused"] == 0
    assert len(result["seconds"]) == 7
    assert all(0 < value < 60 for value in result["seconds"].values())
    aligning = result["seconds"]["pairing"] + result["seconds"]["spans"]
    assert result["aligning_share"] == pytest.approx(aligning / result["seconds"]["tokenising"])
    assert main([*command, str(tmp_path / "text.txt"), "--strategy", "projection"]) == 0
    assert "| tokenise with both tokenizers |" in capsys.readouterr().out
