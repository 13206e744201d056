"""Bits per byte by what a text is: its kind, its script, its source.

A whole held-out set in one figure hides where a student is weak. Documents are therefore put into groups, in
up to three ways at a time, each of which parts them all:

- `kind`: `prose`, `code` or `maths`, if so much of the document as `KIND_SHARE` is that, else `mixed`; the
  lines are told apart by the rule of thumb of `distillation.tokenizers.text_classes`;
- `script`: the one of at least `SCRIPT_SHARE` of its letters, else `mixed`; `none` without letters. Kana and
  Han together are one script, as Japanese is written in both;
- `source`: where it comes from, as the corpus tells.

Documents, and not tokens, are grouped: bits of a document are exact for every tokenizer, and no token lies
in two groups. Groups of few documents say little: two or more of them are put together as `REST`.

Invariant (tests): bits and bytes of the groups of one way sum to those of the whole, for every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

KIND_SHARE = 2 / 3
SCRIPT_SHARE = 0.9
MIN_GROUP_DOCUMENTS = 5
"""Groups of fewer documents are small: their figures are a matter of chance."""
MIXED, NO_LETTERS, REST = "mixed", "none", "the rest"
JAPANESE = "Kana and Han"


class TextGroup(BaseModel):
    """Some of the held-out documents, and what every model makes of them."""

    model_config = ConfigDict(frozen=True)

    label: str
    num_documents: int
    is_small: bool
    """Too few documents for a figure to be trusted."""
    merged: tuple[str, ...]
    """Labels of the small groups that stand together in this one; empty for a group of one label."""
    num_bytes: dict[str, int]
    """UTF-8 bytes that count, by model: one without a start token leaves the first token's out."""
    bits: dict[str, float]
    """What each model needs for them, by model."""

    @property
    def bits_per_byte(self) -> dict[str, float]:
        """By model; models that count no byte of the group are left out."""
        return {name: self.bits[name] / size for name, size in self.num_bytes.items() if size}


class MeasuredDocuments(Protocol):
    """What a model made of the held-out documents, one by one."""

    @property
    def per_document_bits(self) -> Sequence[float]:
        """What the model needs for each document."""

    @property
    def per_document_bytes(self) -> Sequence[int]:
        """UTF-8 bytes of each document that count."""


def document_labels(texts: Sequence[str], sources: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return one label a document for each way to group: `kind`, `script` and, if it is known, `source`."""
    labels = {"kind": tuple(map(text_kind, texts)), "script": tuple(map(text_script, texts))}
    if sources is not None:
        labels["source"] = tuple(sources)
    return labels


def text_kind(text: str) -> str:
    """Return `prose`, `code`, `maths` or `mixed`."""
    from distillation.tokenizers.text_classes import KINDS, WHITESPACE, label_text

    counts = np.bincount(label_text(text).kind, minlength=len(KINDS))
    counts[WHITESPACE] = 0
    return _most(KINDS, counts, KIND_SHARE) if counts.any() else MIXED


def text_script(text: str) -> str:
    """Return the name of the script that the text is written in, `mixed`, or `none` without letters."""
    from distillation.tokenizers.text_classes import COMMON, SCRIPTS, scripts_of

    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    counts = np.bincount(scripts_of(points), minlength=len(SCRIPTS))
    counts[COMMON] = 0
    if not counts.any():
        return NO_LETTERS
    kana, han = counts[SCRIPTS.index("Kana")], counts[SCRIPTS.index("Han")]
    if kana and kana + han >= SCRIPT_SHARE * counts.sum():
        return JAPANESE
    return _most(SCRIPTS, counts, SCRIPT_SHARE)


def group_documents(labels: Sequence[str], results: Mapping[str, MeasuredDocuments]) -> tuple[TextGroup, ...]:
    """Return the groups of one way, the one of most documents first and `REST` last.

    Args:
        labels: one a document.
        results: models that were measured on these documents, in the same order.
    """
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    small = [label for label, chosen in places.items() if len(chosen) < MIN_GROUP_DOCUMENTS]
    rest = sorted(small) if len(small) > 1 else []
    large = [label for label in places if label not in rest]
    large.sort(key=lambda label: (-len(places[label]), label))
    groups = [_group(label, places[label], (), results) for label in large]
    if rest:
        together = [place for label in rest for place in places[label]]
        groups.append(_group(REST, together, tuple(rest), results))
    return tuple(groups)


def _group(
    label: str, places: Sequence[int], merged: tuple[str, ...], results: Mapping[str, MeasuredDocuments]
) -> TextGroup:
    chosen = np.asarray(places)
    return TextGroup(
        label=label,
        num_documents=len(places),
        is_small=len(places) < MIN_GROUP_DOCUMENTS,
        merged=merged,
        num_bytes={
            name: int(np.asarray(result.per_document_bytes)[chosen].sum()) for name, result in results.items()
        },
        bits={
            name: float(np.asarray(result.per_document_bits)[chosen].sum())
            for name, result in results.items()
        },
    )


def _most(names: Sequence[str], counts: np.ndarray, least_share: float) -> str:
    largest = int(counts.argmax())
    return names[largest] if counts[largest] >= least_share * counts.sum() else MIXED
