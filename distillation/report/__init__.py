"""What people read: the terminal's table, the HTML report, the tokenizer audit's page, the model card.

Names are loaded on first use, so that a step that only prints a table does not load the drawing library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillation.report.audit import audit_page
    from distillation.report.card import model_card
    from distillation.report.drawings import figure_files
    from distillation.report.histories import History, read_history
    from distillation.report.page import report_page
    from distillation.report.terminal import summary_table
    from distillation.report.trial import try_report
    from distillation.report.words import verdict_sentence

_HOME = {
    "History": "histories",
    "audit_page": "audit",
    "figure_files": "drawings",
    "model_card": "card",
    "read_history": "histories",
    "report_page": "page",
    "summary_table": "terminal",
    "try_report": "trial",
    "verdict_sentence": "words",
}

__all__ = [
    "History",
    "audit_page",
    "figure_files",
    "model_card",
    "read_history",
    "report_page",
    "summary_table",
    "try_report",
    "verdict_sentence",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
