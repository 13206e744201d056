"""Where teacher and students differ: some held-out text, and what every stretch of it costs each model.

Tokens of different tokenizers cannot be compared one by one, stretches of bytes can: a passage is cut where
*all* models end a token and a character ends too, and a stretch costs a model the bits of its own tokens in
it, each given all before it, in the windows of the bits-per-byte measure:

    bits(stretch) = sum over the model's tokens of the stretch of -log2 p(token | tokens before it)

Passages are chosen by kind and length before any model has read them, so that they flatter none.

Letters: N scored tokens.
Invariants (tests): the stretches join to the passage; a model's bits over a passage that is a whole document
sum to the document's bits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.evaluation.bits_per_byte import encode_documents, score_windows, split_into_windows
from distillation.evaluation.groups import text_kind
from distillation.models.lm_head import LogitsReader, evaluating, num_input_rows

PASSAGE_CHARACTERS = 1200
"""About one screen of a telephone."""
KINDS_SHOWN = ("prose", "code")
"""Of each the first long document that is found."""


class PassageView(BaseModel):
    """The beginning of a held-out document, stretch by stretch."""

    model_config = ConfigDict(frozen=True)

    document: int
    """Index among the held-out documents."""
    kind: str
    """`prose`, `code`, `maths` or `mixed`."""
    stretches: tuple[str, ...]
    """The text between neighbouring ends of tokens that all models have."""
    bits: dict[str, tuple[float | None, ...]]
    """By model, what each stretch costs it; None where nothing predicts a token of it (no start token)."""

    @property
    def text(self) -> str:
        """The passage."""
        return "".join(self.stretches)


@dataclass(frozen=True)
class Passage:
    """What is to be read: the first `num_characters` of a document."""

    document: int
    kind: str
    text: str
    """The whole document: cut text would have other tokens at its end."""
    num_characters: int


@dataclass(frozen=True)
class PassageReading:
    """What one model makes of a passage, token by token."""

    ends: np.ndarray
    """int64 (num_tokens,): where each token ends, in bytes of the document."""
    bits: np.ndarray
    """float64 (num_tokens,): not-a-number for tokens that nothing predicts."""


def choose_passages(texts: Sequence[str], num_characters: int = PASSAGE_CHARACTERS) -> tuple[Passage, ...]:
    """Return the first document of each of `KINDS_SHOWN` that is long enough, else the longest document.

    A document that Unicode normalisation (NFC) would change is passed over: tokenizers that normalise would
    read other bytes.
    """
    usable = [index for index, text in enumerate(texts) if text.strip() and _is_normal(text)]
    long_enough = [index for index in usable if len(texts[index]) >= num_characters]
    chosen: dict[str, int] = {}
    for index in long_enough:
        kind = text_kind(texts[index])
        if kind in KINDS_SHOWN:
            chosen.setdefault(kind, index)
        if len(chosen) == len(KINDS_SHOWN):
            break
    places = sorted(chosen.values())
    if not places and usable:
        places = long_enough[:1] or [max(usable, key=lambda index: len(texts[index]))]
    return tuple(
        Passage(index, text_kind(texts[index]), texts[index], _whole_lines(texts[index], num_characters))
        for index in places
    )


def read_passages(
    model: Any, tokenizer: Any, passages: Sequence[Passage], *, max_length: int, stride: int
) -> list[PassageReading | None]:
    """Return what `model` makes of each passage; None where its tokens do not give the text's bytes back.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        passages: as chosen.
        max_length: tokens of a window, start token included.
        stride: new tokens that each window after the first scores.

    Raises:
        AlignmentError: the bytes of the tokenizer's tokens are not known.
    """
    import torch

    from distillation.models.load import start_token_id
    from distillation.tokenizers.token_bytes import tokens_as_bytes

    tokens = tokens_as_bytes(tokenizer)
    start = start_token_id(tokenizer)
    reader, num_rows = LogitsReader(model), num_input_rows(model)
    readings: list[PassageReading | None] = []
    with torch.inference_mode(), evaluating(model):
        documents = encode_documents(tokenizer, [passage.text for passage in passages], start, num_rows)
        for passage, document in zip(passages, documents, strict=True):
            first_token = 0 if start is None else 1
            ends = _byte_ends(tokens, document.ids[first_token:], passage.text.encode("utf-8"))
            if ends is None:
                readings.append(None)
                continue
            num_bytes = len(passage.text[: passage.num_characters].encode("utf-8"))
            num_tokens = int(np.searchsorted(ends, num_bytes, side="right"))
            ids = document.ids[: first_token + num_tokens]
            bits = np.full(num_tokens, np.nan)
            windows = split_into_windows(ids, document.first_scored, max_length, stride)
            scored = [score_windows(reader, [window]).bits for window in windows]
            if scored:
                bits[document.first_scored - first_token :] = np.concatenate(scored)
            readings.append(PassageReading(ends[:num_tokens], bits))
    return readings


def view_passages(
    passages: Sequence[Passage], readings: Mapping[str, Sequence[PassageReading | None]]
) -> tuple[PassageView, ...]:
    """Return the passages cut where all models that read them end a token.

    Args:
        passages: as chosen.
        readings: by model, one a passage; a model that has None for a passage is not shown with it.
    """
    views = []
    for place, passage in enumerate(passages):
        found = {name: read for name, all_read in readings.items() if (read := all_read[place]) is not None}
        stops = _common_ends(passage, list(found.values()))
        if not len(stops):
            continue
        content = passage.text.encode("utf-8")
        begins = [0, *stops[:-1].tolist()]
        views.append(
            PassageView(
                document=passage.document,
                kind=passage.kind,
                stretches=tuple(
                    content[begin:stop].decode("utf-8") for begin, stop in zip(begins, stops, strict=True)
                ),
                bits={name: _bits_of_stretches(read, stops) for name, read in found.items()},
            )
        )
    return tuple(views)


def _byte_ends(tokens: Any, ids: np.ndarray, content: bytes) -> np.ndarray | None:
    """Return where each token ends in `content`; None if the tokens are not its bytes.

    A tokenizer that puts a space in front has its first byte before the text: ends count from the text.
    """
    try:
        joined = tokens.join(ids)
    except TypeError:  # a special or an unknown token
        return None
    if joined not in (content, b" " + content):
        return None
    ends = tokens.lengths[ids].cumsum(dtype=np.int64)
    return np.maximum(ends - (len(joined) - len(content)), 0)


def _common_ends(passage: Passage, readings: Sequence[PassageReading]) -> np.ndarray:
    """Return the byte ends that all readings have and that part no character, in order, 0 left out."""
    content = np.frombuffer(passage.text.encode("utf-8"), dtype=np.uint8)
    goes_on = np.flatnonzero((content & 0xC0) == 0x80)  # bytes that are not the first of a character
    stops: np.ndarray | None = None
    for reading in readings:
        ends = reading.ends
        stops = np.unique(ends) if stops is None else np.intersect1d(stops, ends)
    if stops is None:
        return np.zeros(0, dtype=np.int64)
    return stops[(stops > 0) & ~np.isin(stops, goes_on)]


def _bits_of_stretches(reading: PassageReading, stops: np.ndarray) -> tuple[float | None, ...]:
    stretch_N = np.searchsorted(stops, reading.ends)  # a token belongs to the first stop at or after its end
    is_inside = stretch_N < len(stops)
    sums = np.zeros(len(stops))
    np.add.at(sums, stretch_N[is_inside], reading.bits[is_inside])
    return tuple(None if np.isnan(total) else float(total) for total in sums)


def _whole_lines(text: str, num_characters: int) -> int:
    """Return at most `num_characters`, less a last line that they would cut, if that leaves half of them."""
    if len(text) <= num_characters:
        return len(text)
    return text.rfind("\n", num_characters // 2, num_characters) + 1 or num_characters


def _is_normal(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)
