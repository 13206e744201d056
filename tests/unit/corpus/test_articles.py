"""Articles out of WikiText lines, documents out of long plain text."""

from __future__ import annotations

import pytest

from distillation.corpus.sources.articles import (
    LINE_CUT_CHARACTERS,
    PARAGRAPH_CUT_CHARACTERS,
    WHOLE_FILE_CHARACTERS,
    cut_plain_text,
    is_article_heading,
    join_article_lines,
)

ROWS = ["", " = First = \n", "", " Text of the first . \n", " = = Section = = \n", " More . \n", ""]
ROWS += [" = Second , 2nd ed. = \n", "", " Text of the second . \n", " = not a heading = \n", ""]


@pytest.mark.parametrize(
    ("line", "expected"),
    [(" = Title = \n", True), (" = = Section = = \n", False), (" = = = Sub = = = ", False), ("a = b", False),
     (" = X = ", True), ("", False), (" = 3 = 4 = \n", True)],
)  # fmt: skip
def test_heading_has_one_sign_on_each_side(line, expected):
    assert is_article_heading(line) is expected


def test_rows_become_articles():
    articles = list(join_article_lines(ROWS))
    assert [article.strip().splitlines()[0].strip() for article in articles] == [
        "= First =",
        "= Second , 2nd ed. =",
    ]
    # A heading-like line within a paragraph belongs to its article.
    assert "= not a heading =" in articles[1]
    assert "".join("".join(articles).split()) == "".join("".join(ROWS).split())


def test_other_rows_stay_documents():
    rows = ["", "one document", " = Looks like a title = ", "two"]
    assert list(join_article_lines(rows)) == rows
    assert list(join_article_lines([])) == []


def test_lazy():
    def endless():
        yield from ROWS
        raise AssertionError("read beyond the first article")

    assert next(join_article_lines(endless())).startswith(" = First =")


def test_short_text_is_one_document():
    text = "Some text.\n\n" * (WHOLE_FILE_CHARACTERS // 12)
    assert list(cut_plain_text(text)) == [text]


@pytest.mark.parametrize("separator", ["\n", "\n\n", "\x0c", "\u2028"])
def test_long_text_is_cut_without_loss(separator):
    text = separator.join(f"Sentence number {i} of a long book." for i in range(3000))
    pieces = list(cut_plain_text(text))
    assert "".join(pieces) == text
    assert len(pieces) > 10
    assert all(len(piece) >= PARAGRAPH_CUT_CHARACTERS for piece in pieces[:-1])
    assert all(len(piece) < LINE_CUT_CHARACTERS + 100 for piece in pieces)


def test_paragraphs_are_kept_whole():
    text = ("word " * 100 + "\n") * 3 + "\n"
    pieces = list(cut_plain_text(text * 30))
    assert all(piece.endswith("\n\n") for piece in pieces)


def test_real_wikitext(shared_dir):
    articles = list(cut_plain_text((shared_dir / "corpora" / "wikitext2-valid.txt").read_text()))
    assert len(articles) == 60  # what the validation split of WikiText-2 has
    assert all(is_article_heading(article.splitlines()[0]) for article in articles)
