"""All settings of a pipeline, and the way from a YAML's mapping to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from distillation.config.evaluation import EvaluationSettings
from distillation.config.section import Section, TrackingAddress
from distillation.config.student import StudentSettings
from distillation.errors import SettingsError, shorten
from distillation.explanations import explain
from distillation.redaction import scrub, secret_in


class TrackingSettings(Section):
    """Where runs are recorded."""

    experiment: str = "student-aware-distillation"
    """MLflow experiment, and name of the registered model's family."""
    uri: TrackingAddress | None = None
    """MLflow tracking server; None uses the active ZenML stack's experiment tracker."""
    system_metrics: bool = True
    """Record the load of processor, memory and GPU during each training; the GPU needs `nvidia-ml-py`."""


class Settings(StudentSettings):
    """All settings of the distillation pipeline."""

    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()


SectionType = TypeVar("SectionType", bound=Section)


def parse_settings(raw: Mapping[str, Any], kind: type[SectionType] = Settings) -> SectionType:  # type: ignore[assignment]
    """Check `raw` and return the frozen settings of `kind`.

    Raises:
        SettingsError: one line that names each faulty setting, its value and the remedy.
    """
    _check_texts(raw)
    try:
        return kind.model_validate(raw)
    except ValidationError as report:
        raise SettingsError(" ".join(explain(kind, report).split())) from None


def set_by_name(raw: dict[str, Any], name: str, value: Any) -> None:
    """Put `value` at the dotted `name` of raw settings; a mapping replaces the one that was there.

    Raises:
        ValueError: the name leads into a value, or past the end of a list.
    """
    *sections, field = name.split(".")
    place: Any = raw
    for section in sections:
        if isinstance(place, dict) and place.get(section) is None:  # inside of `cache: null`: switches it on
            place[section] = {}
        place = place[_key_of(place, section, name)]
        if not isinstance(place, dict | list):
            raise ValueError(f"{name}: {section} has no settings inside")
    place[_key_of(place, field, name)] = value


def _key_of(place: dict[str, Any] | list[Any], part: str, name: str) -> Any:
    """Return the key or the index that a part of a dotted name means."""
    if isinstance(place, dict):
        return part
    if not part.isdecimal() or int(part) >= len(place):
        raise ValueError(f"{name}: {part} is no place of a list of {len(place)}")
    return int(part)


MAX_DEPTH = 32
"""Of sections in sections; a YAML's anchors can make one that holds itself."""


def _check_texts(raw: Any, name: str = "", depth: int = 0) -> None:
    """Refuse texts that nothing can store, and those with a secret, as settings are stored as they are.

    Raises:
        SettingsError: the first value or name that is one; or they are nested without an end.
    """
    if depth > MAX_DEPTH:
        raise SettingsError(f"setting {shorten(name)}: is nested more than {MAX_DEPTH} deep; take it out")
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            _check_texts(key, name, depth + 1)
            _check_texts(value, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(raw, list | tuple):
        for index, value in enumerate(raw):
            _check_texts(value, f"{name}.{index}", depth + 1)
    elif isinstance(raw, str):
        found = secret_in(raw)
        if found is not None:
            raise SettingsError(
                f"setting {shorten(name)} = {shorten(scrub(raw), 80)!r}: holds {found}, which is stored "
                "with the run; take it out: secrets belong in the environment: MLFLOW_TRACKING_USERNAME, "
                "MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, HF_TOKEN"
            )
        if "\0" in raw or any("\ud800" <= character <= "\udfff" for character in raw):
            raise SettingsError(
                f"setting {shorten(name)} = {shorten(raw, 80)!a}: holds a NUL or half of a surrogate pair, "
                "which no file can hold as text; leave it out"
            )
