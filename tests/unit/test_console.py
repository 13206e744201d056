"""What the terminal's encoding lacks is replaced, and the command ends well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_a_table_is_printed_in_any_encoding(encoding: str) -> None:
    program = (
        "from distillation.console import print_anything; print_anything(); import sys; "
        "print('gap \\u2212 44 % \\u2013 \\u00fcber \\u2026 \\u4e16'); print('\\u2192', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode(encoding).rstrip()
    assert text.startswith("gap - 44 % ")
    assert text.endswith("?")
    assert done.stderr.decode(encoding).strip() == "->"


def test_text_that_can_be_written_stays_as_it_is() -> None:
    program = "from distillation.console import print_anything; print_anything(); print('\\u2212 \\u2026')"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode() == "\u2212 \u2026\n"
