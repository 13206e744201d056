"""What text a token stands in: its script, and whether it is prose, code, maths or white space.

Tokenizers differ most where one of them was not trained to look: runs of spaces, scripts of few speakers,
digits. One share over a whole corpus hides that, so the audit counts by these two labels.

- The script of a token is that of its first character that has one; `common` if none has (digits,
  punctuation, symbols). Scripts are ranges of code points, after the blocks of the Unicode standard.
- The kind of a token is `whitespace` if all of it lies in a run of at least `LEAST_RUN` bytes of white space,
  else the kind of its line. A line is `code` or `maths` by signs that prose seldom has (`SIGNS`); lines of
  code without a sign are found by their neighbours. It is a rule of thumb, good for shares and not for single
  lines: tests hold how often it is right on novels, news, worked problems and Python's own library.

Invariant: every token has exactly one script and one kind, so slices partition the tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

KINDS = ("prose", "code", "maths", "whitespace")
PROSE, CODE, MATHS, WHITESPACE = range(len(KINDS))
SLICE_NAMES = {"whitespace": "white space", "common": "digits and signs"}
"""What kinds and scripts are called in front of people, where that is not their own name."""
LEAST_RUN = 2
"""Bytes of white space in a row from which tokenizers begin to cut differently."""

_BLOCKS = (
    (0x0000, "common"), (0x0041, "Latin"), (0x005B, "common"), (0x0061, "Latin"), (0x007B, "common"),
    (0x00AA, "Latin"), (0x00AB, "common"), (0x00BA, "Latin"), (0x00BB, "common"), (0x00C0, "Latin"),
    (0x00D7, "common"), (0x00D8, "Latin"), (0x00F7, "common"), (0x00F8, "Latin"), (0x02B9, "common"),
    (0x0370, "Greek"), (0x0400, "Cyrillic"), (0x0530, "Armenian"), (0x0590, "Hebrew"), (0x0600, "Arabic"),
    (0x0700, "other"), (0x0750, "Arabic"), (0x0780, "other"), (0x0870, "Arabic"), (0x0900, "Devanagari"),
    (0x0980, "Bengali"), (0x0A00, "other"), (0x0B80, "Tamil"), (0x0C00, "Telugu"), (0x0C80, "other"),
    (0x0E00, "Thai"), (0x0E80, "other"), (0x10A0, "Georgian"), (0x1100, "Hangul"), (0x1200, "Ethiopic"),
    (0x13A0, "other"), (0x1C80, "Cyrillic"), (0x1C90, "Georgian"), (0x1CC0, "other"), (0x1D00, "Latin"),
    (0x1DC0, "common"), (0x1E00, "Latin"), (0x1F00, "Greek"), (0x2000, "common"), (0x2C00, "other"),
    (0x2C60, "Latin"), (0x2C80, "other"), (0x2DE0, "Cyrillic"), (0x2E00, "common"), (0x2E80, "Han"),
    (0x2FF0, "common"), (0x3005, "Han"), (0x3008, "common"), (0x3040, "Kana"), (0x30FB, "common"),
    (0x30FC, "Kana"), (0x3100, "other"),
    (0x3130, "Hangul"), (0x3190, "common"), (0x31F0, "Kana"), (0x3200, "common"), (0x3400, "Han"),
    (0x4DC0, "common"), (0x4E00, "Han"), (0xA000, "other"), (0xA640, "Cyrillic"), (0xA6A0, "other"),
    (0xA720, "Latin"), (0xA800, "other"), (0xA960, "Hangul"), (0xA980, "other"), (0xAB30, "Latin"),
    (0xAB70, "other"), (0xAC00, "Hangul"), (0xD800, "common"), (0xF900, "Han"), (0xFB00, "Latin"),
    (0xFB13, "Armenian"), (0xFB1D, "Hebrew"), (0xFB50, "Arabic"), (0xFE00, "common"), (0xFE70, "Arabic"),
    (0xFEFF, "common"), (0xFF21, "Latin"), (0xFF3B, "common"), (0xFF41, "Latin"), (0xFF5B, "common"),
    (0xFF66, "Kana"), (0xFFA0, "Hangul"), (0xFFE0, "common"), (0x10000, "other"), (0x1D400, "common"),
    (0x1D800, "other"), (0x1F000, "common"), (0x20000, "Han"), (0x323B0, "other"), (0xE0000, "common"),
)  # fmt: skip
"""First code point of a range, and its script; a range ends where the next begins."""
SCRIPTS = tuple(dict.fromkeys(script for _, script in _BLOCKS))
COMMON = SCRIPTS.index("common")
_STARTS = np.array([start for start, _ in _BLOCKS], dtype=np.uint32)
_SCRIPT_OF_BLOCK = np.array([SCRIPTS.index(script) for _, script in _BLOCKS], dtype=np.int8)
_WHITESPACE = np.array([ord(letter) for letter in " \t\n\r\x0b\x0c"], dtype=np.uint32)

CODE_SIGNS = re.compile(
    r"""
      ^\s*(?:def|class|struct|enum|interface|fn|func|function|impl|namespace|package)\s+\w+[^.]*[({:;]\s*$
    | ^\s*(?:from\s+[\w.]+\s+import\b|import\s+[\w.]+(?:\s+as\s+\w+|,[\w., ]+)?;?\s*$)
    | ^\s*(?:if|elif|for|while|with|except|match|case)\b.*:\s*(?:\#.*)?$
    | ^\s*(?:else|try|finally)\s*[:{]
    | ^\s*(?:pass|break|continue|return|raise|yield|end|fi|done|esac)\s*;?\s*$
    | ^\s*(?:return|yield|raise|assert|del|await|const|let|var|static|public|private|void|extern)\s+[\w("'\[{]
    | ^\s*(?:\#!|\#include|\#define|\#if|\#endif|//|/\*|>>>\s|\.\.\.\s|@\w+|\{|\}|\)|\])
    | ^\s*<(?:[/!?]\w|\w+(?:\s+[\w-]+=|[^>]*/?>\s*$))
    | ^\s*[A-Za-z_][\w.]*(?:\[[^\]]*\])?(?:\s*,\s*[\w.]+)*(?:\s*:\s*\w+)?\s*[-+*/|&%]?=\s*[A-Za-z_"'\[{(]
    | ==|!=|->|=>|::|\+=|-=|&&|\|\||:=|/>|</|\$\{|\{\}|\[\]
    | [A-Za-z_]\w*\((?:\)|\w+[,)=.]|["'])
    | [A-Za-z_]\w*\[(?:\w*\]|[-:\d])
    | [A-Za-z]_[A-Za-z]|(?<!\w)__\w|\._\w|\b_\w+\(|[A-Za-z]\.\w+\(
    | ["']\s*[:,]\s*$|[\w)\]]\s*[({\[]\s*$|\)\s*[;:{]\s*$
    """,
    re.VERBOSE,
)
"""What lines of programs have and lines of prose hardly ever: any one of these is a sign of code."""
MATHS_SIGNS = re.compile(
    r"""
      [\d)]\s*[-+*/×÷·]\s*\$?[\d(][^=\n]*=
    | \d\s*[+*×÷=<>≤≥^]\s*[-$]?\d
    | [=<>≤≥≈]\s*-?\$?\.?\d
    | \\(?:frac|d?sum|int|sqrt|cdot|times|left|right|begin|mathbb|mathrm|alpha|beta|infty|leq?|geq?|in)\b
    | [∀-⋿]|[\^]\{?[\dn]|\w_\{
    """,
    re.VERBOSE,
)
"""Calculations, relations to a number, LaTeX, mathematical operators."""
MATHS_SHARE = 0.5
"""A line of which at least so much is digits and operators, spaces left out, is maths without a sign."""
NEIGHBOURS = np.array([1.0, 2.0, 0.0, 2.0, 1.0])
"""Weights of the two lines before and after when they decide on a line without a sign."""
ENOUGH_NEIGHBOURS = 0.6
"""A line without a sign is code if its neighbours have signs to at least this share of their weight."""
_NOT_NUMERIC = re.compile(r"[^\d+\-*/=<>^×÷%.,$()#\s]")
_SENTENCE = re.compile(r"[a-z,;]\s+[a-z]+\s+[a-z]+\s+[a-z]+\b")


def scripts_of(points: np.ndarray) -> np.ndarray:
    """Return the script of each code point as an index into `SCRIPTS` (int8)."""
    return _SCRIPT_OF_BLOCK[np.searchsorted(_STARTS, points, side="right") - 1]


def line_kinds(lines: list[str]) -> np.ndarray:
    """Return the kind of each line as an index into `KINDS` (int8): `PROSE`, `CODE` or `MATHS`.

    A blank line has the kind of the line before it.
    """
    kinds = np.array([_sign(line) for line in lines], dtype=np.int8)
    is_blank = np.array([not line.strip() for line in lines], dtype=bool)
    filled = np.flatnonzero(~is_blank)
    if not len(filled):
        return np.full(len(lines), PROSE, dtype=np.int8)
    # Blank lines do not part what belongs together: neighbours are the nearest lines that hold something.
    if len(filled) >= len(NEIGHBOURS):
        weight = np.convolve(np.ones(len(filled)), NEIGHBOURS, "same")
        around = np.convolve(kinds[filled] == CODE, NEIGHBOURS, "same") / weight
        unsure = np.array([_SENTENCE.search(lines[line]) is None for line in filled], dtype=bool)
        kinds[filled[unsure & (around >= ENOUGH_NEIGHBOURS)]] = CODE
    before = np.maximum(np.searchsorted(filled, np.arange(len(lines)), side="right") - 1, 0)
    return kinds[filled[before]]


def _sign(line: str) -> int:
    if CODE_SIGNS.search(line):
        return CODE
    if MATHS_SIGNS.search(line):
        return MATHS
    length = len(line) - line.count(" ")
    is_numeric = length > 0 and 1 - len(_NOT_NUMERIC.findall(line)) / length >= MATHS_SHARE
    return MATHS if is_numeric and any(map(str.isdigit, line)) else PROSE


@dataclass(frozen=True)
class TextLabels:
    """Script and kind of every unit of a text: a character, or a byte (`label_bytes`)."""

    script: np.ndarray
    """int8 (num_units,): index into `SCRIPTS`."""
    kind: np.ndarray
    """int8 (num_units,): index into `KINDS`; `WHITESPACE` inside runs of white space."""

    def touches_whitespace(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return for each token (bool) whether a unit of it lies in a run of white space."""
        return _first_within(self.kind == WHITESPACE, begins, ends)[1]

    def of_tokens(self, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return script and kind of the tokens that cover units begins to ends - 1.

        A token without a unit of its own has the labels of the unit where it stands.
        """
        begins = np.minimum(begins, max(len(self.script) - 1, 0))
        ends = np.maximum(ends, begins + 1)
        scripted, found = _first_within(self.script != COMMON, begins, ends)
        script = np.where(found, self.script[scripted], COMMON)
        inked, found = _first_within(self.kind != WHITESPACE, begins, ends)
        return script, np.where(found, self.kind[inked], WHITESPACE)


def label_text(text: str) -> TextLabels:
    """Return the labels of every character of `text`."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    is_end = points == ord("\n")
    line = np.cumsum(is_end) - is_end
    kind = line_kinds(text.split("\n"))[line]
    kind[_in_runs(np.isin(points, _WHITESPACE))] = WHITESPACE
    return TextLabels(scripts_of(points), kind)


def label_bytes(content: bytes) -> TextLabels:
    """Return the labels of every byte of `content`, which is UTF-8: those of the byte's character."""
    points = np.frombuffer(content.decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
    labels = label_text(content.decode("utf-8"))
    length = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    return TextLabels(np.repeat(labels.script, length), np.repeat(labels.kind, length))


def _first_within(wanted: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each stretch, its first unit that is wanted (else any), and whether there is one."""
    places = np.append(np.flatnonzero(wanted), len(wanted))
    first = places[np.searchsorted(places, begins)]
    found = first < ends
    return np.where(found, first, 0), found


def _in_runs(is_space: np.ndarray) -> np.ndarray:
    """Return which units lie in a run of at least LEAST_RUN units of white space."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_space, [False]])))
    starts, stops = edges[::2], edges[1::2]
    long_enough = stops - starts >= LEAST_RUN
    change = np.zeros(len(is_space) + 1, dtype=np.int64)
    change[starts[long_enough]] += 1
    change[stops[long_enough]] -= 1
    return np.cumsum(change[:-1]) > 0
