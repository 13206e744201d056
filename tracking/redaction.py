"""The last gate before text leaves for MLflow: passwords in addresses and the secrets of the environment.

Settings hold no secrets, and fields that look secret are masked by name. What is left is text that others
wrote: an error message that repeats an address, a path with a login in it. Every text that the recorder
writes goes through `scrub`, so no caller has to remember.
"""

from __future__ import annotations

import os
import re

MASK = "***"
_SECRET_NAME = re.compile(r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|KEY|CREDENTIALS?)$", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)(?=@)")
_MIN_LENGTH = 8  # a shorter value would strike out ordinary words


def scrub(text: str) -> str:
    """Return `text` without passwords of addresses and without the values of secret environment variables.

    A variable is secret by its name: it ends in TOKEN, PASSWORD, SECRET, KEY or CREDENTIALS. Values under 8
    characters and paths are let through, as they stand in ordinary text as well.
    """
    text = _LOGIN.sub(rf"\1:{MASK}", text)
    for secret in _secrets():
        text = text.replace(secret, MASK)
    return text


def _secrets() -> list[str]:
    """Return the secret values, longest first, so that none is struck out in part."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    found = [value for value in values if len(value) >= _MIN_LENGTH and not value.startswith(("/", "~"))]
    return sorted(found, key=len, reverse=True)
