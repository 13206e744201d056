"""One tokenizer's tokens in the tokens of another: what the other's *own encoding* of their bytes is.

Encoded one by one, 150,000 tokens cost more in calls than in tokenising. Where a special token of the
tokenizer separates texts without touching them, a few hundred go into one text with it in between, and the
pieces are told apart by its id.

Invariant: the pieces of a token are those of encoding its text alone, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from distillation.tokenizers.pairs import puts_space_in_front
from distillation.tokenizers.plain_text import PlainText, strings_to_spell, unchanging_backend
from distillation.tokenizers.prefix_tables import SortedTokens
from distillation.tokenizers.token_bytes import TokenBytes, components

TOKENS_A_TEXT = 128
"""Tokens that are joined into one text; the tokenizer slows down on longer ones."""


@dataclass(frozen=True)
class Reencoded:
    """The pieces of every token of a `SortedTokens`, by rank."""

    pieces: np.ndarray
    """int32: ids of the other tokenizer, end to end."""
    starts: np.ndarray
    """int64 (num_tokens,): where each rank's pieces begin."""
    counts: np.ndarray
    """int64 (num_tokens,): pieces of each rank; 0 where they would not give its bytes back."""

    @property
    def first(self) -> np.ndarray:
        """int32 (num_tokens,): first piece of each rank; -1 where it has none."""
        padded = np.append(self.pieces, np.int32(-1))
        return np.where(self.counts > 0, padded[self.starts], -1).astype(np.int32)


def reencode(tokens: SortedTokens, other: TokenBytes, other_tokenizer: Any) -> Reencoded:
    """Encode every token of `tokens` with another tokenizer.

    Args:
        tokens: byte strings; those that are no UTF-8 text have no encoding.
        other: the other tokenizer's tokens as bytes.
        other_tokenizer: the tokenizer itself.
    """
    reader = PlainText(other_tokenizer, len(other.table))
    has_space_in_front = puts_space_in_front(reader, other)
    content = tokens.buffer.tobytes()
    ends = tokens.starts + tokens.lengths
    texts: list[str] = []
    ranks: list[int] = []
    for rank, (begin, end) in enumerate(zip(tokens.starts.tolist(), ends.tolist(), strict=True)):
        if has_space_in_front:
            if content[begin] != ord(" "):
                continue  # Inside a word: alone, the other would write a space before it.
            begin += 1
        try:
            texts.append(content[begin:end].decode("utf-8"))
        except UnicodeDecodeError:
            continue
        ranks.append(rank)
    pieces, counts = _encode_apart(other_tokenizer, reader, other, texts)
    counts_all = np.zeros(len(tokens.ids), dtype=np.int64)
    counts_all[ranks] = counts
    is_exact = _give_back(tokens, other, pieces, counts_all)
    kept = np.repeat(is_exact, counts_all)
    counts_all[~is_exact] = 0
    return Reencoded(pieces[kept], np.cumsum(counts_all) - counts_all, counts_all)


def _encode_apart(
    tokenizer: Any, reader: PlainText, other: TokenBytes, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return all pieces end to end (int32) and how many each text has (int64)."""
    backend = unchanging_backend(tokenizer)
    separator = _separator(backend, other.family)
    strings = strings_to_spell(tokenizer, len(other.table))
    content = "\0".join(texts)
    # Beside the separator every special token is looked for: a text that spells one has to go alone.
    if separator is not None and not any(string in content for string in strings):
        joined = [
            separator.join([*texts[begin : begin + TOKENS_A_TEXT], ""])
            for begin in range(0, len(texts), TOKENS_A_TEXT)
        ]
        encodings = backend.encode_batch_fast(joined, add_special_tokens=False)
        flat = np.array(list(chain.from_iterable(one.ids for one in encodings)), dtype=np.int32)
        ends = np.flatnonzero(flat == backend.token_to_id(separator))
        # A text that swallows part of a separator is seen by their number.
        if len(ends) == len(texts):
            return np.delete(flat, ends), np.diff(ends, prepend=-1) - 1
    encoded = reader.ids(texts)
    counts = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    return np.array(list(chain.from_iterable(encoded)), dtype=np.int32), counts


def _separator(backend: Any, family: str) -> str | None:
    """Return a special token between which texts are encoded as if alone; None if none is known to be.

    Tokenizers look for added tokens first and treat what lies between as texts of their own. A space that is
    put in front of the first word only is what could tell them apart, so byte-level families without one.
    """
    level = [part for part in components(backend, "pre_tokenizer") if part["type"] == "ByteLevel"]
    if not family.startswith("byte_level") or not level or any(part["add_prefix_space"] for part in level):
        return None
    if any(part["type"] == "Prepend" for part in components(backend, "normalizer")):
        return None
    for token in backend.get_added_tokens_decoder().values():
        touches = token.lstrip or token.rstrip or token.single_word
        is_found_as_written = not token.normalized or backend.normalizer is None
        if token.special and is_found_as_written and not touches and token.content:
            return str(token.content)
    return None


def _give_back(tokens: SortedTokens, other: TokenBytes, pieces: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return bool per rank: it has pieces, and joined they are its bytes."""
    num_tokens = len(tokens.ids)
    piece_lengths = other.lengths[pieces].astype(np.int64)
    owner = np.repeat(np.arange(num_tokens), counts)
    written = np.bincount(owner, weights=piece_lengths, minlength=num_tokens).astype(np.int64)
    # A piece without bytes is a special or unknown token.
    num_empty = np.bincount(owner[piece_lengths == 0], minlength=num_tokens)
    is_exact = (counts > 0) & (written == tokens.lengths) & (num_empty == 0)
    kept = is_exact[owner]
    buffer = np.frombuffer(b"".join(filter(None, other.table)), dtype=np.uint8)
    begins = np.cumsum(other.lengths, dtype=np.int64) - other.lengths
    places = _stretches(begins[pieces[kept]], piece_lengths[kept])
    wanted = _stretches(tokens.starts[is_exact], tokens.lengths[is_exact])
    differs = buffer[places] != tokens.buffer[wanted]
    by_byte = np.repeat(np.flatnonzero(is_exact), tokens.lengths[is_exact])
    is_exact[by_byte[differs]] = False
    return is_exact


def _stretches(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the places begin, begin + 1, ... of all stretches, end to end."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(int(lengths.sum()))
