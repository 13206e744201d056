"""Tables over all prefixes of a vocabulary's byte strings, built without a Python loop per token.

Both halves walk the byte strings level by level, k = 0, 1, ..., over all tokens at once:

- in sorted order, the tokens that share their first k bytes are neighbours, so "all tokens that start
  with r" is one range of ranks (`prefix_ranges`);
- those groups are the nodes of a trie, and walking the student's trie along the teacher's bytes, all
  places of all tokens in step, gives the longest student token that starts at each place
  (`longest_prefixes`).

Cost: the sum of token lengths (ranges), and that times the depth reached in the trie (longest prefixes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SortedTokens:
    """Byte strings in lexicographic order, laid end to end in one buffer."""

    ids: np.ndarray
    """int64 (num_tokens,): token id of each rank."""
    lengths: np.ndarray
    """int64 (num_tokens,): bytes of each rank, at least 1."""
    starts: np.ndarray
    """int64 (num_tokens,): where each rank begins in `buffer`."""
    buffer: np.ndarray
    """uint8."""


@dataclass(frozen=True)
class _Level:
    """The groups of tokens that share their first `depth` bytes."""

    depth: int
    members: np.ndarray
    """Ranks with at least `depth` bytes."""
    group: np.ndarray
    """Group of each member, counted from 0."""
    leaders: np.ndarray
    """Index into `members` of each group's first one; the shortest, so the prefix itself if it is a token."""


def sort_tokens(tokens: Mapping[int, bytes]) -> SortedTokens:
    """Sort `tokens`, id -> bytes (not empty); equal strings keep their order in the mapping."""
    ids = sorted(tokens, key=tokens.__getitem__)
    ranked = [tokens[index] for index in ids]
    lengths = np.array([len(token) for token in ranked], dtype=np.int64)
    return SortedTokens(
        ids=np.array(ids, dtype=np.int64),
        lengths=lengths,
        starts=np.cumsum(lengths) - lengths,
        buffer=np.frombuffer(b"".join(ranked), dtype=np.uint8),
    )


def prefix_ranges(tokens: SortedTokens) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each byte of the buffer, the range of ranks that start as its token does up to there.

    At `starts[r] + k`: lo, hi (int32), the ranks whose bytes start with the first k of rank r *and go on*.
    Tokens that are equal to the prefix sort before all that go on, so leaving them out keeps one range.
    """
    lo = np.zeros(len(tokens.buffer), dtype=np.int32)
    hi = np.zeros(len(tokens.buffer), dtype=np.int32)
    for level in _levels(tokens):
        num_groups = len(level.leaders)
        sizes = np.diff(np.append(level.leaders, len(level.members)))
        first = level.members[level.leaders]
        ends_here = tokens.lengths[level.members] == level.depth
        num_equal = np.bincount(level.group[ends_here], minlength=num_groups)
        inside = ~ends_here
        place = tokens.starts[level.members[inside]] + level.depth
        lo[place] = (first + num_equal)[level.group[inside]]
        hi[place] = (first + sizes)[level.group[inside]]
    return lo, hi


def longest_prefixes(tokens: SortedTokens, vocabulary: SortedTokens) -> np.ndarray:
    """Return, for each byte of the buffer of `tokens`, which of `vocabulary` goes furthest from there.

    At `starts[r] + k`: the id (int32) of the longest string of `vocabulary` that is a prefix of what is
    left of rank r after k bytes; -1 if none is.
    """
    num_places = len(tokens.buffer)
    remaining = np.repeat(tokens.starts + tokens.lengths, tokens.lengths) - np.arange(num_places)
    longest = np.full(num_places, -1, dtype=np.int32)
    place = np.arange(num_places)
    node = np.zeros(num_places, dtype=np.int64)
    for depth, keys, token in _trie_levels(vocabulary):
        alive = remaining[place] >= depth
        place, node = place[alive], node[alive]
        if not len(place):
            break
        key = node * 256 + tokens.buffer[place + depth - 1]
        node = np.searchsorted(keys, key)
        found = keys[np.minimum(node, len(keys) - 1)] == key
        place, node = place[found], node[found]
        ends = token[node] >= 0
        longest[place[ends]] = token[node[ends]]
    return longest


def _trie_levels(vocabulary: SortedTokens) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield per depth from 1: sorted keys parent * 256 + byte, one a node, and the id that ends there."""
    parent_of_rank = np.zeros(len(vocabulary.ids), dtype=np.int64)
    for level in _levels(vocabulary):
        if level.depth > 0:
            leader = level.members[level.leaders]
            byte = vocabulary.buffer[vocabulary.starts[leader] + level.depth - 1]
            is_token = vocabulary.lengths[leader] == level.depth
            yield (
                level.depth,
                parent_of_rank[leader] * 256 + byte,
                np.where(is_token, vocabulary.ids[leader], -1),
            )
        parent_of_rank[level.members] = level.group


def _levels(tokens: SortedTokens) -> Iterator[_Level]:
    """Yield the groups for depth 0, 1, ... up to the longest token."""
    if not len(tokens.ids):
        return
    members = np.arange(len(tokens.ids))
    # joins[r]: rank r shares at least `depth` bytes with rank r - 1.
    joins = np.ones(len(tokens.ids), dtype=bool)
    joins[0] = False
    for depth in range(int(tokens.lengths.max()) + 1):
        if depth > 0:
            members = members[tokens.lengths[members] >= depth]
            byte = tokens.buffer[tokens.starts[members] + depth - 1]
            # Ranks between two members would start with the prefix that the two share, and be members too.
            adjacent = np.zeros(len(members), dtype=bool)
            adjacent[1:] = (members[1:] == members[:-1] + 1) & (byte[1:] == byte[:-1])
            joins[members] &= adjacent
        is_leader = ~joins[members]
        yield _Level(depth, members, np.cumsum(is_leader) - 1, np.flatnonzero(is_leader))


def offsets_by_id(tokens: SortedTokens, num_rows: int) -> np.ndarray:
    """Return, per id below `num_rows`, where its bytes begin in the buffer (int64); -1 without bytes."""
    offsets = np.full(num_rows, -1, dtype=np.int64)
    offsets[tokens.ids] = tokens.starts
    return offsets


def ordinary_tokens(table: Sequence[bytes | None]) -> dict[int, bytes]:
    """Return id -> bytes of the tokens that have any."""
    return {index: token for index, token in enumerate(table) if token}
