"""Texts that a tokenizer cannot spell as a whole: what is lost is the stretch around the part, not the text.

A tokenizer without a token for a character writes an unknown token for it, or for the whole word, or drops
it. So each side's tokens are put in place, one after the other: a token stands where its bytes stand in the
text. What cannot be placed, and text that no token covers, are gaps. Between the gaps of both sides lie
stretches that begin and end where tokens of both do.

Invariants: the tokens of a stretch are those that the tokenizer gives for the whole text, in order, and are
the stretch's bytes on both sides; no stretch touches a gap; a gap never parts a character.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillation.tokenizers.token_bytes import TokenBytes


@dataclass(frozen=True)
class Gap:
    """Bytes `begin` to `end` of a text that a side does not spell; none where only a token is too many."""

    begin: int
    end: int
    cause: str


@dataclass(frozen=True)
class PlacedTokens:
    """The tokens of one side on the bytes of the text, all in order."""

    ids: np.ndarray
    """int32 (num_tokens,)."""
    begins: np.ndarray
    """int64 (num_tokens,): -1 for a first token with a space that the tokenizer puts in front."""
    ends: np.ndarray
    is_spelled: np.ndarray
    """bool (num_tokens,): the token is the bytes at its place."""
    gaps: tuple[Gap, ...]

    def between(self, begin: int, end: int) -> np.ndarray:
        """Return the tokens (int64 indices) that lie between two bytes and are spelled."""
        rows, begins, ends = self._spelled
        return rows[
            np.searchsorted(begins, -1 if begin == 0 else begin) : np.searchsorted(ends, end, "right")
        ]

    @functools.cached_property
    def _spelled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.flatnonzero(self.is_spelled)
        return rows, self.begins[rows], self.ends[rows]


def place_tokens(
    tokens: TokenBytes,
    encoding: Any,
    text: str,
    num_extra: int,
    has_space_in_front: bool,
    cause_of: Callable[[int], str],
    cause_of_gap: str,
) -> PlacedTokens:
    """Put the tokens of `encoding` in place.

    Args:
        tokens: of the tokenizer.
        encoding: of `text`, as the tokenizer gives it.
        text: what both sides are to read.
        num_extra: characters that were put before the text to be encoded.
        has_space_in_front: the first token may hold a space that the text does not.
        cause_of: says why a token has no bytes.
        cause_of_gap: why text is not covered, or a token is not the text.
    """
    content = text.encode("utf-8")
    byte_of = byte_places(text).tolist()
    begins, ends, is_spelled = [], [], []
    gaps: list[Gap] = []
    # A model without an unknown token drops characters, and then says too early places for what follows.
    are_places_true = bool(encoding.offsets) and encoding.offsets[-1][1] >= len(text) + num_extra
    place = 0
    for row, (index, offsets) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
        first, last = (byte_of[max(character - num_extra, 0)] for character in offsets)
        token = tokens.table[index]
        begin = (
            None
            if token is None
            else _place_of(token, content, place, first, row == 0 and has_space_in_front)
        )
        if begin is None and token is not None and not are_places_true:
            found = content.find(token, place)
            begin = found if found >= 0 else None
        if token is None or begin is None:
            end = max(place, last)
            gaps.append(Gap(place, end, cause_of(index) if token is None else cause_of_gap))
            begins.append(place)
            ends.append(end)
            is_spelled.append(False)
            place = end
            continue
        if begin > place:
            gaps.append(Gap(place, begin, cause_of_gap))
        place = begin + len(token)
        begins.append(begin)
        ends.append(place)
        is_spelled.append(True)
    if place < len(content):
        gaps.append(Gap(place, len(content), cause_of_gap))
    return PlacedTokens(
        np.array(encoding.ids, dtype=np.int32),
        np.array(begins, dtype=np.int64),
        np.array(ends, dtype=np.int64),
        np.array(is_spelled, dtype=bool),
        tuple(_without_torn_characters(gap, content) for gap in gaps),
    )


def _place_of(token: bytes, content: bytes, place: int, first: int, may_begin_before: bool) -> int | None:
    """Return where `token` stands: at `place` or where the tokenizer says, at `first`; None: nowhere."""
    if content.startswith(token, place):
        return place
    if may_begin_before and token[:1] == b" " and content.startswith(token[1:]):
        return -1
    if first >= place and content.startswith(token, first):
        return first
    # Of a word with a space before it some tokenizers give the place without the space.
    if first > place and content.startswith(token, first - 1):
        return first - 1
    return None


def _without_torn_characters(gap: Gap, content: bytes) -> Gap:
    begin, end = gap.begin, gap.end
    while 0 < begin < len(content) and content[begin] & 0xC0 == 0x80:
        begin -= 1
    while end < len(content) and content[end] & 0xC0 == 0x80:
        end += 1
    return Gap(begin, end, gap.cause)


def common_stretches(
    sides: tuple[PlacedTokens, PlacedTokens], num_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the tokens (indices) of both sides of each stretch that both spell, in order."""
    begin = 0
    for gap in [*sorted_gaps(sides), Gap(num_bytes, num_bytes, "")]:
        if gap.begin >= begin:
            chosen = [side.between(begin, gap.begin) for side in sides]
            starts = np.intersect1d(*(side.begins[rows] for side, rows in zip(sides, chosen, strict=True)))
            stops = np.intersect1d(*(side.ends[rows] for side, rows in zip(sides, chosen, strict=True)))
            # A space that a tokenizer puts in front is no stretch by itself.
            if len(starts) and len(stops) and stops[-1] > max(starts[0], 0):
                teacher, student = (
                    rows[(side.begins[rows] >= starts[0]) & (side.ends[rows] <= stops[-1])]
                    for side, rows in zip(sides, chosen, strict=True)
                )
                yield teacher, student
        begin = max(begin, gap.end)


def sorted_gaps(sides: Sequence[PlacedTokens]) -> list[Gap]:
    """Return the gaps of all sides by place."""
    return sorted((gap for side in sides for gap in side.gaps), key=lambda gap: (gap.begin, gap.end))


def causes_at(gaps: Sequence[Gap], begins: np.ndarray, ends: np.ndarray) -> list[str]:
    """Return for each token that is lost the cause of the gap that is nearest to it."""
    after = np.searchsorted([gap.begin for gap in gaps], begins, "right")
    causes = []
    for index, begin, end in zip(after.tolist(), begins.tolist(), ends.tolist(), strict=True):
        near = gaps[max(index - 1, 0) : index + 1]
        causes.append(min(near, key=lambda gap: max(gap.begin - end, begin - gap.end)).cause)
    return causes


def byte_places(text: str) -> np.ndarray:
    """Return at which byte each character begins, and the length in bytes, int64 (len(text) + 1,)."""
    if text.isascii():
        return np.arange(len(text) + 1)
    code = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (code > 0x7F).astype(np.int64) + (code > 0x7FF) + (code > 0xFFFF)
    return np.concatenate([[0], np.cumsum(sizes)])
