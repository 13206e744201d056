"""Batches of windows with what a teacher cache keeps of them.

Legend, at the end of names: B windows, T student positions, S teacher positions, K most entries of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distillation.errors import JobError
from distillation.teachers.cache.entries import WindowEntries, window_key
from distillation.teachers.cache.store import CacheReader

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.corpus.windows import WindowCollator
    from distillation.tokenizers.pairs import EncodedPair


class CachedCollator:
    """Adds the cache's targets to the tensors of a batch.

    Args:
        collator: makes the rest; its teacher's side is only needed for likelihood matching.
        reader: of the cache.
        foretelling: says where there should be a target, to be compared; None does not ask.
    """

    def __init__(
        self, collator: WindowCollator, reader: CacheReader, foretelling: Aligner | None = None
    ) -> None:
        self.collator = collator
        self.reader = reader
        self.foretelling = foretelling

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """Return what the collator does, and:

        - `cached_num_entries`, `cached_tail` (B, T); `cached_id`, `cached_weight` (B, T, K), 0 at the end;
        - `cached_residual` (B,);
        - `teacher_position` (B, T) where it is asked for;
        - `cached_log_probs` (B, S, 2) with a collator that has the teacher's side.
        """
        batch = self.collator(pairs)
        entries = [self.reader.read(window_key(pair)) for pair in pairs]
        batch |= _padded(entries, batch["input_ids"].shape[1])
        if self.foretelling is not None and "teacher_position" not in batch:
            position_BT = self.foretelling.align(pairs).teacher_position_BT.astype(np.int64)
            batch["teacher_position"] = torch.from_numpy(position_BT)
        if "teacher_labels" in batch:
            log_probs_BS2 = np.zeros((*batch["teacher_labels"].shape, 2), np.float32)
            for row, one in zip(log_probs_BS2, entries, strict=True):
                row[: len(one.log_probs_S2)] = one.log_probs_S2
            batch["cached_log_probs"] = torch.from_numpy(log_probs_BS2)
        return batch


def _padded(entries: Sequence[WindowEntries], num_positions: int) -> dict[str, Tensor]:
    """Lay the entries of all windows out as one tensor a kind."""
    num_BT = np.zeros((len(entries), num_positions), np.int64)
    tail_BT = np.zeros(num_BT.shape, np.float32)
    for index, one in enumerate(entries):  # a loop over windows, not tokens
        num_BT[index, : len(one.num_entries_T)] = one.num_entries_T
        tail_BT[index, : len(one.tail_T)] = one.tail_T
    is_entry_BTK = np.arange(max(int(num_BT.max()), 1)) < num_BT[..., None]
    id_BTK, weight_BTK = np.zeros(is_entry_BTK.shape, np.int32), np.zeros(is_entry_BTK.shape, np.float32)
    # Both run window by window, position by position, entry by entry.
    id_BTK[is_entry_BTK] = np.concatenate([one.id_E for one in entries])
    weight_BTK[is_entry_BTK] = np.concatenate([one.weight_E for one in entries])
    return {
        "cached_num_entries": torch.from_numpy(num_BT),
        "cached_tail": torch.from_numpy(tail_BT),
        "cached_id": torch.from_numpy(id_BTK),
        "cached_weight": torch.from_numpy(weight_BTK),
        "cached_residual": torch.tensor([float(one.residual) for one in entries]),
    }


def check_windows(reader: CacheReader, pairs: Sequence[EncodedPair]) -> None:
    """Check that the cache has every window.

    Raises:
        JobError: it lacks some.
    """
    num_missing = sum(window_key(pair) not in reader for pair in pairs)
    if num_missing:
        raise JobError(
            f"teacher cache {reader.store.directory}: lacks {num_missing} of {len(pairs)} windows; "
            "run the pipeline again, which makes them"
        )
