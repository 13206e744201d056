"""pydantic's report on faulty settings as one line a person can act on."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from distillation.errors import shorten

UNION_TAGS = ("hub", "file", "documentation", "range", "choices")
"""Tags of `corpus.sources` and of a search's space: in pydantic's locations, but no keys of the YAML."""

MAX_VALUE, MAX_REASON = 80, 400
"""Characters of a name or a value, and of what is wrong with it, in a message."""
MAX_FAULTS = 5
"""Faults that a message names; the user mends them and is told the next ones."""


def explain(kind: type[BaseModel], report: ValidationError) -> str:
    """Return what is wrong with the settings of `kind`: name, value and remedy of each fault, in one line."""
    lines = list(dict.fromkeys(_explain(kind, error) for error in report.errors()))
    more = [f"and {len(lines) - MAX_FAULTS} more"] if len(lines) > MAX_FAULTS else []
    return "; ".join(lines[:MAX_FAULTS] + more)


def _explain(kind: type[BaseModel], error: Any) -> str:
    """Turn one entry of pydantic's report into `name = value: what is wrong, what to do`."""
    path = [str(part) for part in error["loc"] if part not in UNION_TAGS]
    name = ".".join(shorten(part, MAX_VALUE) for part in path)
    if error["type"] == "extra_forbidden":
        names = list(_section_at(kind, path[:-1]).model_fields)
        close = difflib.get_close_matches(path[-1], names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(names)}"
        return f"unknown setting {name} = {shorten(repr(error['input']), MAX_VALUE)}: {hint}"
    if error["type"] == "missing":
        return f"setting {name} is missing: give it a value"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["msg"].startswith("Input should be "):
        message = f"must be {message}"
    if not name:  # a rule between sections, whose message names the settings itself
        return shorten(message, MAX_REASON)
    return f"setting {name} = {shorten(repr(error['input']), MAX_VALUE)}: {shorten(message, MAX_REASON)}"


def _section_at(kind: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """Return the section that `path` leads to from `kind`, or the deepest one that is known."""
    section = kind
    for part in path:
        field = section.model_fields.get(part)
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return section
