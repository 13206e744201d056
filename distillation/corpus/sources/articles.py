"""Whole documents out of running text: WikiText lines joined to articles, long plain text cut at paragraphs.

WikiText comes as one line a row, and an article opens with ` = Title = ` between blank lines (its sections
have two or more signs on each side). A plain text file may be a whole book, which as one document could be
neither split nor held out in part. Invariant of both functions: no character of the text but blank lines at
the ends of an article is lost, and nothing depends on anything outside the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

WHOLE_FILE_CHARACTERS = 20_000
"""A plain text up to this length is one document."""
PARAGRAPH_CUT_CHARACTERS = 2_000
"""A longer one is cut at the first blank line after this many characters ..."""
LINE_CUT_CHARACTERS = 4_000
"""... or, where no blank line comes, at the first line end after this many."""

_ARTICLE_HEADING = re.compile(r"^\s*= [^=\s](?:.*[^=\s])? =\s*$")


def is_article_heading(line: str) -> bool:
    """Tell whether `line` opens a WikiText article: exactly one equals sign on each side."""
    return _ARTICLE_HEADING.match(line) is not None


def join_article_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield rows unchanged, or, where the first row with text is an article heading, whole articles.

    Args:
        lines: rows of text, with or without their line ends.
    """
    iterator = iter(lines)
    leading: list[str] = []
    for line in iterator:
        leading.append(line)
        if line.strip():
            break
    rows = chain(leading, iterator)
    if leading and is_article_heading(leading[-1]):
        yield from _articles(rows)
    else:
        yield from rows


def _articles(lines: Iterable[str]) -> Iterator[str]:
    """Group lines into articles; a heading counts only after a blank line, or the first line of all."""
    article: list[str] = []
    is_after_blank = True
    for line in lines:
        if is_after_blank and is_article_heading(line) and any(part.strip() for part in article):
            yield _joined(article)
            article = []
        article.append(line)
        is_after_blank = not line.strip()
    if any(part.strip() for part in article):
        yield _joined(article)


def _joined(lines: list[str]) -> str:
    """Return the lines as one text, without the blank ones at both ends."""
    with_text = [index for index, line in enumerate(lines) if line.strip()]
    kept = lines[with_text[0] : with_text[-1] + 1]
    return "".join(line if line.endswith("\n") else line + "\n" for line in kept)


def cut_plain_text(text: str) -> Iterator[str]:
    """Yield `text` as documents: whole if it is short, as articles if it is WikiText, else cut at paragraphs.

    The pieces of a text that is not WikiText, put together, are the text.
    """
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    if is_article_heading(first):
        yield from _articles(lines)
    elif len(text) <= WHOLE_FILE_CHARACTERS:
        yield text
    else:
        yield from _paragraph_pieces(lines)


def _paragraph_pieces(lines: list[str]) -> Iterator[str]:
    piece: list[str] = []
    num_characters = 0
    for line in lines:
        piece.append(line)
        num_characters += len(line)
        is_cut = num_characters >= LINE_CUT_CHARACTERS or (
            num_characters >= PARAGRAPH_CUT_CHARACTERS and not line.strip()
        )
        if is_cut:
            yield "".join(piece)
            piece, num_characters = [], 0
    if piece:
        yield "".join(piece)
