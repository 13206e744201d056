"""Which texts a tokenizer spells as a whole, told by each family's published rule."""

from __future__ import annotations

import pytest
from alignment_families import BUILDERS, Variant, variants_of
from alignment_reference import END, SENTENCES, sentencepiece_bpe, sentencepiece_unigram
from alignment_texts import FRAGMENTS
from test_unspelled import few_bytes, letters

from distillation.tokenizers.plain_text import PlainText
from distillation.tokenizers.spelling import are_spelled

TEXTS = [*SENTENCES, *FRAGMENTS, "", " two  spaces and a\ttab\n", "a Greek Ω, a Georgian ჯ"]


def spells(variant: Variant, text: str, ids: list[int]) -> bool:
    """Tell it by the rule written out a second time."""
    table = variant.table
    content = variant.content(text).encode()
    return all(index in table for index in ids) and b"".join(map(table.get, ids)) in (
        content,
        b" " + content,
    )


@pytest.mark.parametrize("family", BUILDERS)
def test_every_family_by_its_own_rule(family: str) -> None:
    for variant in variants_of(family):
        read = PlainText(variant.tokenizer).ids(TEXTS)
        expected = [spells(variant, text, ids) for text, ids in zip(TEXTS, read, strict=True)]
        assert are_spelled(variant.tokenizer, TEXTS) == expected
        assert all(expected) or not variant.is_complete


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (letters(), "a snowman ☃"),
        (letters(unknown=None), "a snowman ☃"),
        (few_bytes(), "a Greek Ω"),
        (sentencepiece_unigram(), "the dog \N{SNOWMAN} sleeps"),
    ],
    ids=["unknown token", "no unknown token", "missing bytes", "unigram"],
)
def test_what_is_lost_without_a_trace_or_as_an_unknown_token(tokenizer, text: str) -> None:
    assert are_spelled(tokenizer, ["the dog", text, "the dog"]) == [True, False, True]


def test_what_spells_the_unknown_token_is_spelled() -> None:
    text = f"word level text has <unk> in it, and <s>, </s> and {END}"
    assert are_spelled(sentencepiece_bpe(), [text, "a snowman ☃, by its bytes"]) == [True, True]
