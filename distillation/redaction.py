"""The one gate for text that leaves: for pages, cards, tracking servers, state files, messages, stores.

Nobody writes a secret on purpose. It stands in an address that an error message repeats, in a prompt, in a
path, in a setting that took a token for a value. So whatever leaves goes through `scrub`, and a setting that
`scrub` would change is refused before a pipeline starts, whose parameters are stored as they are.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

MASK = "***"

Plain = TypeVar("Plain")

_SECRET_NAME = re.compile(r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|KEY|APIKEY|CREDENTIALS?)$", re.IGNORECASE)
_MIN_LENGTH = 8  # a shorter value would strike out ordinary words

# Whatever stands between :// and @ is a login, whole or in part; only git's own user name is none. A password
# may hold an @ or, against the rules, a slash; then what follows the colon is no port. Lengths are bounded,
# here and below, so that no text takes long.
_LOGIN = re.compile(
    r"""(?<=://)(?!git@|\*\*\*@)
    (?: [^\s/?\#"'<>\\]{1,500}
      | [^\s/@:"'<>\\]{0,200} : (?!\d{1,5}(?:[/?\#]|$)) [^\s@"'<>\\]{1,500} )
    (?=@)""",
    re.VERBOSE,
)
_QUERY = re.compile(
    r"""([?&;] (?:[\w.-]{0,40}[_.-])?
      (?:token|api_?key|key|secret|password|passwd|pwd|pass|credentials?|signature|sig|auth) =)
    (?!\*\*\*) [^\s&;\#"'<>\\]{1,2000}""",
    re.VERBOSE | re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"""\b((?:[\w-]{0,40}[_-])?(?:token|api[_-]?key|secret|password|passwd)
      (?:"|'|&\#34;|&\#39;|&quot;)? \s{0,3} [=:] \s{0,3} (?:"|'|&\#34;|&\#39;|&quot;)?)
    (?=[\w+/=.~-]{0,200}\d) (?=[\w+/=.~-]{0,200}[A-Za-z]) [\w+/=.~-]{12,2000}""",
    re.VERBOSE | re.IGNORECASE,
)
_HEADER = re.compile(
    r"(\bauthorization[\"']?\s{0,3}[=:]\s{0,3}[\"']?(?:basic|bearer)\s{1,3})[^\s\"'<>]{1,4000}", re.IGNORECASE
)
_TOKEN = re.compile(
    r"""\b(?: hf_[A-Za-z0-9]{16,}
      | sk-(?=[\w-]{0,60}\d)[\w-]{20,}
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
      | xox[abeprs]-[\w-]{12,}
      | A[KS]IA[0-9A-Z]{16}\b | AIza[\w-]{30,}
      | dapi[0-9a-f]{30,} | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{40,}
      | eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]+)? )
    | -----BEGIN\ [A-Z ]{0,30}PRIVATE\ KEY-----[^-]{0,20000}(?:-----END\ [A-Z ]{0,30}PRIVATE\ KEY-----)?""",
    re.VERBOSE,
)


def scrub(text: str) -> str:
    """Return `text` without logins in addresses, secrets in queries, tokens, and secrets of the environment.

    A variable of the environment is secret by its name: it ends in TOKEN, PASSWORD, SECRET, KEY or
    CREDENTIALS. Values under 8 characters and paths are let through, as they stand in ordinary text as well.
    """
    return _without_secrets_of_environment(_without_secret_forms(text))


def scrub_all(value: Plain) -> Plain:
    """Return plain data, as JSON holds it, with every text in it scrubbed."""
    found: Any = value
    if isinstance(value, str):
        found = scrub(value)
    elif isinstance(value, Mapping):
        found = {scrub_all(name): scrub_all(inner) for name, inner in value.items()}
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        found = [scrub_all(inner) for inner in value]
    return found  # type: ignore[no-any-return]


def secret_in(text: str) -> str | None:
    """Return what kind of secret `text` holds, in words; None where there is none."""
    if _without_secret_forms(text) != text:
        return "a login, a password or a token"
    for name, value in _secrets_of_environment():
        # A word as such is no secret: some databases are called like their password.
        if value in text and not (value.isalpha() and len(value) < 16):
            return f"the value of the environment variable {name}"
    return None


def _without_secret_forms(text: str) -> str:
    text = _LOGIN.sub(MASK, text)
    for pattern in (_QUERY, _ASSIGNED, _HEADER):
        text = pattern.sub(rf"\1{MASK}", text)
    return _TOKEN.sub(MASK, text)


def _without_secrets_of_environment(text: str) -> str:
    for _, secret in _secrets_of_environment():
        for written in (secret, html.escape(secret), quote(secret, safe="")):
            text = text.replace(written, MASK)
    return text


def _secrets_of_environment() -> list[tuple[str, str]]:
    """Return names and secret values, longest value first, so that none is struck out in part."""
    # Other threads (MLflow has one) remove variables meanwhile: `items` would stumble over one that is gone.
    environment = ((name, os.environ.get(name, "")) for name in list(os.environ))
    found = [
        (name, value)
        for name, value in environment
        if _SECRET_NAME.search(name) and len(value) >= _MIN_LENGTH and not value.startswith(("/", "~"))
    ]
    return sorted(found, key=lambda pair: len(pair[1]), reverse=True)
