"""What a teacher cache keeps of one window, and how it is laid out in a shard.

Legend, at the end of names: T student tokens, S teacher tokens, E entries of all positions one after another.

Half of the bytes of a sample would be counts, and most of those are 1: a position stores its repeated tokens
first, how many they are, and the counts of those alone.

Invariant: what `window_of_parts` returns is what `stored_parts` was given.
"""

# ruff: noqa: N815 - the shape suffixes stand in field names too.
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distillation.tokenizers.pairs import EncodedPair

KEY_BYTES = 16
NOTHING: dict[str, np.ndarray] = {
    "num_entries_T": np.zeros(0, np.uint8),
    "num_repeated_T": np.zeros(0, np.uint8),
    "id_E": np.zeros(0, np.uint16),
    "weight_E": np.zeros(0, np.float16),
    "tail_T": np.zeros(0, np.float16),
    "log_probs_S2": np.zeros((0, 2), np.float16),
}
"""What a shard keeps of all its windows, one after another, and what a window without any has."""


def window_key(pair: EncodedPair) -> bytes:
    """Return the hash of a window: tokens of both sides, where they end, which are trained on."""
    total = hashlib.blake2b(digest_size=KEY_BYTES)
    trained = np.zeros(0, np.int32) if pair.trained is None else np.packbits(pair.trained)
    for values in (pair.teacher.ids, pair.teacher.ends, pair.student.ids, pair.student.ends, trained):
        total.update(len(values).to_bytes(4, "little"))
        total.update(np.ascontiguousarray(values, dtype="<i4").tobytes())
    return total.digest()


@dataclass(frozen=True)
class WindowEntries:
    """What is kept of one window."""

    num_entries_T: np.ndarray
    """uint8 or uint16: entries of each student token's position; 0 where there is no target."""
    id_E: np.ndarray
    """uint16 or uint32: student tokens."""
    weight_E: np.ndarray
    """Counts, or float16 probabilities."""
    tail_T: np.ndarray
    """float16: mass outside of the entries; empty for a sample."""
    residual: np.ndarray
    """float32, a number: mean mass that no student token could carry, over positions with a target."""
    log_probs_S2: np.ndarray
    """float16: of each teacher token, and of a new word's beginning; empty where no term needs them."""


def stored_parts(window: WindowEntries) -> dict[str, np.ndarray]:
    """Return the parts that are stored: of a sample only those counts that are above 1, which stand first."""
    parts = {name: getattr(window, name) for name in NOTHING if name != "num_repeated_T"}
    parts["num_repeated_T"] = window.num_entries_T[:0]
    if np.issubdtype(window.weight_E.dtype, np.integer):
        is_repeated_E = window.weight_E > 1
        row_E = np.repeat(np.arange(len(window.num_entries_T)), window.num_entries_T)
        repeated_T = np.bincount(row_E[is_repeated_E], minlength=len(window.num_entries_T))
        parts["num_repeated_T"] = repeated_T.astype(window.num_entries_T.dtype)
        parts["weight_E"] = window.weight_E[is_repeated_E]
    return {name: parts[name] for name in NOTHING}


def window_of_parts(parts: Mapping[str, np.ndarray], residual: np.ndarray) -> WindowEntries:
    """Undo `stored_parts`."""
    num_entries_T, weight_E = parts["num_entries_T"], parts["weight_E"]
    if len(parts["num_repeated_T"]):
        counts_T = num_entries_T.astype(np.int64)
        place_E = np.arange(len(parts["id_E"])) - np.repeat(np.cumsum(counts_T) - counts_T, counts_T)
        stored_E, weight_E = weight_E, np.ones(len(place_E), weight_E.dtype)
        weight_E[place_E < np.repeat(parts["num_repeated_T"], counts_T)] = stored_E
    return WindowEntries(
        num_entries_T=num_entries_T,
        id_E=parts["id_E"],
        weight_E=weight_E,
        tail_T=parts["tail_T"],
        residual=residual,
        log_probs_S2=parts["log_probs_S2"],
    )
