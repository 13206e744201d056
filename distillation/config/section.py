"""What every group of settings is: a frozen pydantic model that refuses unknown keys."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_VARIABLE = re.compile(r"\$\{[^}]*\}|(?<![^/])\$[A-Za-z_]\w*")
_SQLITE = "sqlite:///"


def _with_home(path: str) -> str:
    """Return the path with `~` written out, so that every reader of the setting takes the same place.

    Raises:
        ValueError: no such user, or the path holds a variable, which nothing here fills in.
    """
    if variable := _VARIABLE.search(path):
        raise ValueError(
            f"{variable.group()} is not filled in, so that a setting means the same everywhere; write it out"
        )
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"there is no home folder {path.split('/', 1)[0]}; write the path out")
    return expanded


def _address_with_home(address: str) -> str:
    """Return an address whose `~`, as in `sqlite:///~/mlflow.db`, is written out."""
    if address.startswith(_SQLITE):
        return _SQLITE + _with_home(address.removeprefix(_SQLITE))
    return _with_home(address) if address.startswith("~") else address


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
LocalPath = Annotated[str, AfterValidator(_with_home)]
"""A path of this machine (or a name of the hub, which is left alone); a leading `~` is the home folder."""
TrackingAddress = Annotated[str, AfterValidator(_address_with_home)]
"""Address of a tracking server, or of a database file in which `~` is the home folder."""


class Section(BaseModel):
    """A group of settings: immutable, and an unknown key is an error rather than a silent no-op.

    What is dumped, as Python or as JSON, and validated again means the same: settings travel that way to
    every step and job. So no rule may ask which fields were set, and no number is infinite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
