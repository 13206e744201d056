"""Two small tasks made from the held-out documents themselves: `cloze` and `choice`.

    cloze    the last word of a sentence, given the text before it; right if it is what the model itself would
             write, token by token (LAMBADA's measure, Paperno et al. 2016, https://arxiv.org/abs/1606.06031)
    choice   which of four pieces comes next: the true one, or three of about its length from other documents;
             right if the true one is the most likely, in all (`acc`) or by the byte (`acc_bytes`)

Neither measure depends on how a tokenizer cuts: an item is text, and lengths are in UTF-8 bytes.

Items are chosen by the hash of what they say, a few from every document before more from any: the same
documents give the same items in whatever order they come, on every machine. Words that stand in their context
too come first, as with most of LAMBADA's. Where words are not parted by spaces, a sentence's last two
characters stand for its last word; where hardly any sentences are, as in program code, lines stand for them.
Invariants (tests): context and true answer stand in one document, one after the other; false answers stand in
other documents; each right place is about equally frequent.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item", "_Piece", tuple[str, str])

NUM_CHOICES = 4
MIN_ITEMS = 20
"""A task of fewer items is left out: its standard error would exceed ten points of a hundred."""
ENOUGH_ITEMS = 50
"""With as many, a stricter choice of words is kept; with fewer, a wider one is taken."""
CLOZE_CONTEXT = 320
"""UTF-8 bytes before the word, at most."""
CHOICE_CONTEXT = 240
"""UTF-8 bytes before the pieces, at most."""
MIN_CONTEXT = 40
"""A shorter context says too little of what follows."""
PIECE_BYTES = (24, 120)
"""Shortest and longest piece to choose from, in UTF-8 bytes."""

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"  # kana and Han characters
_SPACED_WORD = rf"(?<=[^\s])[ \n][^\W\d_{_UNSPACED}]{{2,24}}"
_SENTENCE_WORD = re.compile(rf"{_SPACED_WORD}(?=[.!?](?:\s|$))|[{_UNSPACED}]{{2}}(?=[。！？])")
_LINE_WORD = re.compile(rf"{_SPACED_WORD}(?=\W*(?:\n|$))|[{_UNSPACED}]{{2}}(?=\W*(?:\n|$))")
_GAP = re.compile(r"(?<=[.!?])\s+|[ \t]*\n\s*|(?<=[。！？])")
"""What parts pieces: the white space after a sentence, the end of a line, nothing after `。`."""


@dataclass(frozen=True)
class TaskFiles:
    """What was written of the embedded tasks that were asked for."""

    names: tuple[str, ...]
    """Tasks whose YAML is in the folder."""
    reasons: dict[str, str]
    """Why each other one was left out, one line."""


def write_embedded_tasks(
    names: Iterable[str], texts: Sequence[str], num_items: int, folder: Path
) -> TaskFiles:
    """Write NAME.yaml and NAME.jsonl of each embedded task into `folder`, with up to `num_items` items."""
    import yaml

    written, reasons = [], {}
    for name in names:
        items = MAKERS[name](texts, num_items)
        if len(items) < min(MIN_ITEMS, num_items):
            reasons[name] = (
                f"the held-out documents give {len(items)} items, too few to measure; "
                "raise corpus.max_held_out_bytes"
            )
            continue
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(_definition(name), sort_keys=False), "utf-8")
        written.append(name)
    return TaskFiles(tuple(written), reasons)


def cloze_items(texts: Iterable[str], num_items: int) -> list[dict[str, Any]]:
    """Return items with `context` and `target`, which begins with the white space that parts the two."""
    documents = sorted(set(texts))
    found: list[tuple[str, str]] = []
    # A word that stands in the context can be found by a small model too, as with most of LAMBADA's.
    for pattern, must_recur in ((_SENTENCE_WORD, True), (_SENTENCE_WORD, False), (_LINE_WORD, False)):
        pairs = _spread([list(_cloze_of(document, pattern, must_recur)) for document in documents])
        found = max(found, pairs, key=len)
        if len(found) >= min(ENOUGH_ITEMS, num_items):
            break
    return [{"context": context, "target": target} for context, target in found[:num_items]]


def choice_items(texts: Iterable[str], num_items: int) -> list[dict[str, Any]]:
    """Return items with `context`, `choices` and `answer`, the index of the true choice."""
    pieces = {document: list(_pieces(document)) for document in sorted(set(texts))}
    if sum(map(bool, pieces.values())) < NUM_CHOICES:
        return []
    document_of = {piece: document for document, found in pieces.items() for piece in found}
    pool = _Pool(pieces)
    items = []
    for piece in _spread(pieces.values()):
        false = pool.others(document_of[piece], piece)
        if len(false) < NUM_CHOICES - 1:
            continue
        answer = _hash(piece.context, piece.text) % NUM_CHOICES
        choices = [piece.gap + text for text in (*false[:answer], piece.text, *false[answer:])]
        items.append({"context": piece.context, "choices": choices, "answer": answer})
        if len(items) == num_items:
            break
    return items


MAKERS: dict[str, Callable[[Iterable[str], int], list[dict[str, Any]]]] = {
    "cloze": cloze_items,
    "choice": choice_items,
}


def _definition(name: str) -> dict[str, Any]:
    """Return the lm-eval task: names of columns, no templates, so that braces in a text are only text."""
    measures = {"cloze": ("acc",), "choice": ("acc", "acc_bytes")}[name]
    answer = {
        "cloze": {"output_type": "loglikelihood", "doc_to_target": "target"},
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        },
    }[name]
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "context",
        "target_delimiter": "",
        "metric_list": [
            {"metric": measure, "aggregation": "mean", "higher_is_better": True} for measure in measures
        ],
        "metadata": {"version": 1.0},
        **answer,
    }


def _cloze_of(document: str, pattern: re.Pattern[str], must_recur: bool) -> Iterator[tuple[str, str]]:
    for match in pattern.finditer(document):
        context, word = _tail(document, match.start(), CLOZE_CONTEXT), match.group()
        recurs = not must_recur or word.strip().lower() in context.lower()
        if recurs and _size(context) >= MIN_CONTEXT:
            yield context, word


@dataclass(frozen=True, order=True)
class _Piece:
    """A sentence or line, the text before it, and the white space between the two."""

    text: str
    gap: str
    context: str


def _pieces(document: str) -> Iterator[_Piece]:
    """Yield the sentences and lines that are long enough, each cut to the longest length."""
    gaps = [match.span() for match in _GAP.finditer(document)]
    ends = [begin for begin, _ in gaps[1:]] + [len(document)]
    for (begin, end), end_of_piece in zip(gaps, ends, strict=False):
        text = _head(document[end:end_of_piece], PIECE_BYTES[1])
        context = _tail(document, begin, CHOICE_CONTEXT)
        if _size(text) >= PIECE_BYTES[0] and _size(context) >= MIN_CONTEXT and any(map(str.isalpha, text)):
            yield _Piece(text, document[begin:end], context)


class _Pool:
    """All pieces by length, to find others of about the same length."""

    def __init__(self, pieces: Mapping[str, Sequence[_Piece]]) -> None:
        found = {
            (_size(piece.text), _hash(piece.text), piece.text, document)
            for document, group in pieces.items()
            for piece in group
        }
        self._sorted = sorted(found)
        self._lengths = [length for length, *_ in self._sorted]

    def others(self, document: str, piece: _Piece) -> list[str]:
        """Return up to three pieces, nearest to `piece` in length, each from another document."""
        seen, texts = {document}, {piece.text}
        chosen: list[str] = []
        for text, origin in self._nearest(_size(piece.text), _hash(piece.context, piece.text)):
            if origin not in seen and text not in texts and text not in document:
                chosen.append(text)
                seen.add(origin)
                texts.add(text)
            if len(chosen) == NUM_CHOICES - 1:
                break
        return chosen

    def _nearest(self, length: int, key: int) -> Iterator[tuple[str, str]]:
        """Yield (piece, document) by distance in length; `key` says where to begin among equal lengths."""
        above = bisect_left(self._sorted, (length, key))
        below = above - 1
        while below >= 0 or above < len(self._sorted):
            down = length - self._lengths[below] if below >= 0 else math.inf
            up = self._lengths[above] - length if above < len(self._lengths) else math.inf
            if up <= down:
                yield self._sorted[above][2:]
                above += 1
            else:
                yield self._sorted[below][2:]
                below -= 1


def _spread(groups: Iterable[list[Item]]) -> list[Item]:
    """Return items by the order of their hashes, first one of each group (document), then a second, ..."""
    ranked: dict[Item, tuple[int, int]] = {}
    for group in groups:
        hashed = sorted((_hash(repr(item)), item) for item in group)
        for rank, (key, item) in enumerate(hashed):
            ranked[item] = min((rank, key), ranked.get(item, (rank, key)))  # the same in two documents: once
    return sorted(ranked, key=ranked.__getitem__)


def _tail(document: str, end: int, num_bytes: int) -> str:
    """Return at most `num_bytes` of UTF-8 before `end`, begun at a word where words are spaced."""
    text = document[max(0, end - num_bytes - 1) : end].rstrip()
    if _size(text) <= num_bytes:
        return text.lstrip("\n")
    kept = text.encode()[-num_bytes:].decode("utf-8", "ignore")
    begun = re.sub(r"^\S*\s+", "", kept)
    return begun if _size(begun) >= num_bytes // 2 else kept


def _head(text: str, num_bytes: int) -> str:
    """Return at most `num_bytes` of UTF-8 of the beginning, ended at a word where words are spaced."""
    text = text.rstrip()
    if _size(text) <= num_bytes:
        return text
    kept = text.encode()[:num_bytes].decode("utf-8", "ignore")
    ended = re.sub(r"\s+\S*$", "", kept)
    return ended if _size(ended) >= num_bytes // 2 else kept.rstrip()


def _size(text: str) -> int:
    return len(text.encode())


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")
