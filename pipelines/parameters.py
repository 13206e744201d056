"""The content of a pipeline's YAML file."""

from __future__ import annotations

from typing import Any

from distillation.errors import InputError, SettingsError, one_line
from distillation.reading import read_yaml


def read_parameters(path: str) -> dict[str, Any]:
    """Return the whole content of a pipeline file.

    Raises:
        SettingsError: it is missing, is no YAML, or is no mapping.
    """
    try:
        content = read_yaml(path)
    except InputError as error:
        raise SettingsError(f"file {one_line(error)}; give a YAML file with -c") from None
    if not isinstance(content, dict):
        raise SettingsError(f"file {path}: must hold parameters: settings: and so on")
    return content
