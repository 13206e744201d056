"""Standard output that takes every text, whatever the terminal's encoding."""

from __future__ import annotations

import codecs
import sys
import unicodedata

_PLAIN = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u2500\u2501", "-"),
    **dict.fromkeys("\u2018\u2019\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u2033", '"'),
    "\u2026": "...",
    "\u2192": "->",
    "\u2190": "<-",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u00d7": "x",
    "\u00b7": "-",
    "\u2022": "-",
    "\u2502": "|",
}


def print_anything() -> None:
    """Make standard output and error replace what their encoding lacks, where they would raise or escape it.

    A figure with a minus sign must not end a run whose work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's has none, and takes everything
        if reconfigure is not None:
            reconfigure(errors=_nearest.__name__)


def leave_bars() -> None:
    """End the lines of progress bars whose work was cut off, so that the next line stands alone."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(bars, "_instances", ())):
        bar.close()


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """Stand plain characters in for those that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _PLAIN.get(character) or base or "?"


codecs.register_error(_nearest.__name__, _nearest)
