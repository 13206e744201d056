"""Any pydantic result as rows of words and values, for a table that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from distillation.report.words import MISSING, percent

SHARE_WORDS = ("share", "mass", "retained", "meaning", "causes without target")
"""A number under a name with one of these is shown as per cent."""
MAX_ITEMS = 12
"""Longer lists are cut, and say how much is left out."""


def facts(result: BaseModel | Mapping[str, Any], group: str = "") -> list[tuple[str, str]]:
    """Return (name, value) rows; nested groups give `group: name`, shares are per cent, None is a dash."""
    mapping = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
    rows: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = group + str(key).removeprefix("num_").replace("_", " ")
        if isinstance(value, Mapping):
            rows.extend(facts(value, f"{name}: "))
        else:
            rows.append((name, _shown(name, value)))
    return rows


def _shown(name: str, value: Any) -> str:
    if value is None or value == "" or value == []:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return percent(value, 2) if any(word in name for word in SHARE_WORDS) else f"{value:,.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(_item(item) for item in value[:MAX_ITEMS])
        return shown if len(value) <= MAX_ITEMS else f"{shown} and {len(value) - MAX_ITEMS:,} more"
    return str(value)


def _item(item: Any) -> str:
    if isinstance(item, Mapping):
        return "; ".join(f"{name} {value}" for name, value in facts(item))
    if isinstance(item, Sequence) and not isinstance(item, str):
        return " ".join(_item(part) for part in item)
    return _shown("", item)
