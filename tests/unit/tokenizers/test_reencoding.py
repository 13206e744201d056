"""Tokens in the pieces of another tokenizer: as if each were encoded alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alignment_reference import (
    END,
    byte_level_tokenizers,
    exhaustive,
    sentencepiece_bpe,
    trained_byte_level,
    vocabulary_bytes,
    wordpiece,
)
from hypothesis import given
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from distillation.tokenizers import reencoding
from distillation.tokenizers.prefix_tables import sort_tokens
from distillation.tokenizers.reencoding import reencode
from distillation.tokenizers.token_bytes import tokens_as_bytes


def pieces_by_token(tokens: dict[int, bytes], other: Any) -> dict[bytes, list[int]]:
    ranked = sort_tokens(tokens)
    result = reencode(ranked, tokens_as_bytes(other), other)
    listed = {
        tokens[index]: result.pieces[begin : begin + count].tolist()
        for index, begin, count in zip(ranked.ids.tolist(), result.starts, result.counts, strict=True)
    }
    first = [listed[tokens[index]][:1] or [-1] for index in ranked.ids.tolist()]
    assert result.first.tolist() == [piece for (piece,) in first]
    return listed


def slow_pieces(token: bytes, other: Tokenizer, bytes_of: dict[int, bytes]) -> list[int]:
    try:
        ids = other.encode(token.decode("utf-8"), add_special_tokens=False).ids
    except UnicodeDecodeError:
        return []
    is_exact = all(index in bytes_of for index in ids) and b"".join(bytes_of[i] for i in ids) == token
    return list(ids) if is_exact else []


@exhaustive
@given(byte_level_tokenizers(), byte_level_tokenizers())
def test_pieces_are_those_of_encoding_alone(one: Tokenizer, other: Tokenizer) -> None:
    tokens, bytes_of = vocabulary_bytes(one), vocabulary_bytes(other)
    assert pieces_by_token(tokens, other) == {t: slow_pieces(t, other, bytes_of) for t in tokens.values()}


def test_joined_or_apart_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = trained_byte_level(420), trained_byte_level(310, split_digits=True)
    # A token that the normaliser changes does not give its bytes back; one that holds a separator.
    tokens = vocabulary_bytes(one) | {1000: "e\u0301".encode(), 1001: b"\n\n  x", 1002: b"12 345"}
    joined = pieces_by_token(tokens, other)
    assert joined == {t: slow_pieces(t, other, vocabulary_bytes(other)) for t in tokens.values()}
    assert sum(len(pieces) > 1 for pieces in joined.values()) > 20
    for size in (1, 7, 10_000):
        monkeypatch.setattr(reencoding, "TOKENS_A_TEXT", size)
        assert pieces_by_token(tokens, other) == joined
    # A token that spells the separator is text: the pieces are those of its characters.
    marked = b"a " + END.encode()
    found = pieces_by_token(tokens | {1003: marked}, other)
    bytes_of = vocabulary_bytes(other)
    assert b"".join(bytes_of[piece] for piece in found.pop(marked)) == marked
    assert found == joined
    nfc = trained_byte_level(420, nfc=True)
    assert pieces_by_token(tokens, nfc)["e\u0301".encode()] == []


def test_only_a_separator_that_touches_nothing_is_used() -> None:
    plain = trained_byte_level(300)
    assert reencoding._separator(plain, "byte_level_bpe") == END
    assert reencoding._separator(sentencepiece_bpe(), "sentencepiece_bpe") is None
    for level in (pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits()):
        plain.pre_tokenizer = level
        assert reencoding._separator(plain, "byte_level_bpe") is None
    for kind in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}):
        greedy = trained_byte_level(300)
        greedy.add_special_tokens([AddedToken(END, special=True, **kind)])
        assert reencoding._separator(greedy, "byte_level_bpe") is None


def test_a_space_that_is_put_in_front_is_taken_off() -> None:
    the = sentencepiece_bpe()
    pieces = pieces_by_token({0: b" the", 1: b"the", 2: b" ", 3: b" \xff"}, the)
    assert pieces == {b" the": [the.token_to_id("▁the")], b"the": [], b" ": [], b" \xff": []}
    words = wordpiece()
    pieces = pieces_by_token({0: b" tokens", 1: b"tokens", 2: " 日".encode(), 3: b" Tokens"}, words)
    assert pieces[b" tokens"] == words.encode("tokens", add_special_tokens=False).ids
    assert pieces[b"tokens"] == pieces[b" Tokens"] == []
    assert all(words.token_to_id("[UNK]") not in ids for ids in pieces.values())


def test_nothing_to_encode() -> None:
    result = reencode(sort_tokens({}), tokens_as_bytes(wordpiece()), wordpiece())
    assert len(result.pieces) == len(result.first) == 0


@pytest.mark.parametrize(("one", "other"), [("smollm", "qwen2"), ("gpt2", "gpt-neox-20b")])
def test_real_vocabularies(shared_dir: Path, one: str, other: str) -> None:
    first, second = (
        Tokenizer.from_file(str(shared_dir / "tokenizers" / name / "tokenizer.json")) for name in (one, other)
    )
    tokens, bytes_of = vocabulary_bytes(first), vocabulary_bytes(second)
    sample = {index: tokens[index] for index in sorted(tokens)[::11]}
    found = pieces_by_token(sample, second)
    assert found == {token: slow_pieces(token, second, bytes_of) for token in sample.values()}
