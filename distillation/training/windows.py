"""Windows: stretches of a document that both models read whole.

Legend, at the end of names: B windows of a batch, T student positions, S teacher positions.

A document is cut where a teacher token and a student token end at the same byte, so that both sides of a
window hold the same text and no token is torn. Each side gets its start token in front, hence row j of the
logits predicts token j + 1. Every variant of a comparison trains on these same windows.

Invariant: the windows of a document cover each of its tokens at most once, in order; what is left out because
no common cut exists within a window's length is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from distillation.alignment.cutting import cut_pair
from distillation.alignment.pairs import EncodedPair, PairEncoder
from distillation.alignment.spans import Alignment
from distillation.objectives.distillation import IGNORED

if TYPE_CHECKING:
    from distillation.alignment.base import Aligner

ENCODING_BATCH = 256
"""Documents that are tokenised at a time."""


@dataclass(frozen=True)
class WindowCounts:
    """What became of the documents."""

    num_documents: int
    num_refused: int
    """Documents whose bytes the two tokenizers do not agree on."""
    num_windows: int
    num_student_tokens: int
    num_student_tokens_left_out: int


class Windows(Dataset):
    """All windows of a corpus, in document order; `windows[i]` is an `EncodedPair`."""

    def __init__(self, pairs: Sequence[EncodedPair], counts: WindowCounts) -> None:
        self.pairs = list(pairs)
        self.counts = counts

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EncodedPair:
        return self.pairs[index]

    @property
    def lengths(self) -> list[int]:
        """Student tokens of each window."""
        return [len(pair.student.ids) for pair in self.pairs]


def make_windows(encoder: PairEncoder, texts: Sequence[str], max_length: int) -> Windows:
    """Tokenise `texts` with both tokenizers and cut them into windows of at most `max_length` tokens a side.

    The start token counts: a window holds `max_length` - 1 tokens of text.
    """
    pairs: list[EncodedPair] = []
    num_refused = num_tokens = num_kept = 0
    for begin in range(0, len(texts), ENCODING_BATCH):
        for pair in encoder.encode(list(texts[begin : begin + ENCODING_BATCH])):
            if pair is None:
                num_refused += 1
                continue
            windows = list(cut_pair(pair, max_length - 1))
            num_tokens += len(pair.student.ids)
            num_kept += sum(len(window.student.ids) for window in windows)
            pairs += windows
    return Windows(pairs, WindowCounts(len(texts), num_refused, len(pairs), num_kept, num_tokens - num_kept))


class WindowCollator:
    """Makes the tensors of a batch: both models' inputs and labels, and the alignment between them.

    Args:
        student_start: start token of the student.
        teacher_start: start token of the teacher.
        aligner: says which teacher row each student position learns from; None leaves the teacher out.
    """

    def __init__(self, student_start: int, teacher_start: int, aligner: Aligner | None) -> None:
        self.student_start = student_start
        self.teacher_start = teacher_start
        self.aligner = aligner

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask`, `shift_labels` (B, T), and with an aligner the teacher's
        `teacher_input_ids`, `teacher_attention_mask`, `teacher_labels` (B, S) and `teacher_position`,
        `num_emitted`, `num_tail` (B, T).
        """
        ids, mask, labels = _inputs_and_labels([pair.student.ids for pair in pairs], self.student_start)
        batch = {"input_ids": ids, "attention_mask": mask, "shift_labels": labels}
        if self.aligner is None:
            return batch
        ids, mask, labels = _inputs_and_labels([pair.teacher.ids for pair in pairs], self.teacher_start)
        batch |= {"teacher_input_ids": ids, "teacher_attention_mask": mask, "teacher_labels": labels}
        alignment: Alignment = self.aligner.align(pairs)
        return batch | {
            "teacher_position": torch.from_numpy(alignment.teacher_position_BT.astype(np.int64)),
            "num_emitted": torch.from_numpy(alignment.num_emitted_BT.astype(np.int64)),
            "num_tail": torch.from_numpy(alignment.num_tail_BT.astype(np.int64)),
        }


def _inputs_and_labels(ids: Sequence[np.ndarray], start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs (the start token, then all but the last token), mask and labels, padded on the right."""
    longest = max(len(row) for row in ids)
    inputs_BT = np.full((len(ids), longest), start, np.int64)
    labels_BT = np.full((len(ids), longest), IGNORED, np.int64)
    mask_BT = np.zeros((len(ids), longest), np.int64)
    for index, row in enumerate(ids):  # a loop over windows, not tokens
        inputs_BT[index, 1 : len(row)] = row[:-1]
        labels_BT[index, : len(row)] = row
        mask_BT[index, : len(row)] = 1
    return torch.from_numpy(inputs_BT), torch.from_numpy(mask_BT), torch.from_numpy(labels_BT)


class LengthBatchedSampler(Sampler[int]):
    """Random batches of windows of like length: little padding, and an order that is a function of the epoch.

    transformers' own sampler walks each group from long to short and draws from one generator, so that a
    run that resumes in a later epoch sees another order. Here windows are shuffled, sorted by length within
    groups of `GROUP` batches, and the batches shuffled again; seed and epoch decide all of it.
    """

    GROUP = 32

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        batches = []
        for begin in range(0, len(order), self.GROUP * self.batch_size):
            group = order[begin : begin + self.GROUP * self.batch_size]
            group = group[np.argsort(-self.lengths[group], kind="stable")]
            batches += [group[i : i + self.batch_size] for i in range(0, len(group), self.batch_size)]
        # A last batch that is not full must stay last, else the loader would cut all others anew.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        for index in random.permutation(len(full)):
            yield from full[index].tolist()
        for batch in rest:
            yield from batch.tolist()
