"""A pipeline whose step fails inside of a library, as a client does that repeats the address it was given."""

from __future__ import annotations

from typing import Any

from zenml import step

from distillation.config import Settings, parse_settings
from pipelines.guarded import guarded_pipeline


@step(enable_cache=False)
def ask_a_library(address: str) -> str:
    """Fail as a library would, with a cause; the address is read from a file."""
    from pathlib import Path

    secret = Path(address).read_text()
    print(f"asking {secret}")
    try:
        raise ConnectionError(f"no route to {secret}")
    except ConnectionError as error:
        raise RuntimeError(f"cannot ask {secret}") from error


@guarded_pipeline(before=parse_settings, after=lambda run, settings: None)
def failing_pipeline(settings: dict[str, Any]) -> None:
    """Ask a library at the address that the file of the first prompt holds."""
    checked: Settings = parse_settings(settings)
    ask_a_library(checked.evaluation.prompts[0])
