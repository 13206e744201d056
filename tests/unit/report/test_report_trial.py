"""A report that cannot be drawn is one line before any work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distillation.config import Settings
from distillation.errors import InputError
from distillation.report.trial import try_report


def test_a_report_can_be_drawn_here() -> None:
    try_report(Settings())


def test_a_missing_template_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    import jinja2

    from distillation.report.templating import environment

    monkeypatch.setattr(environment(), "loader", jinja2.FileSystemLoader(tmp_path))
    monkeypatch.setattr(environment(), "cache", None)
    with pytest.raises(InputError, match=r"no report can be drawn here .*report.html.*install") as info:
        try_report(Settings())
    assert "\n" not in str(info.value)


def test_a_drawing_library_that_is_set_up_wrongly_is_one_line() -> None:
    program = (
        "from distillation.report.trial import try_report; from distillation.config import Settings\n"
        "from distillation.errors import InputError\n"
        "try: try_report(Settings())\n"
        "except InputError as error: print(error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MPLBACKEND": "nonsense"},
    )
    assert "no report can be drawn here (ValueError" in answer.stdout
    assert "unset MPLBACKEND" in answer.stdout
