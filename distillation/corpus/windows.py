"""Windows: stretches of a document that both models read whole.

Legend, at the end of names: B windows of a batch, T student positions, S teacher positions.

A document is cut where a teacher token and a student token end at the same byte, so that both sides of a
window hold the same text and no token is torn. Each side gets its start token in front, hence row j of the
logits predicts token j + 1. Every variant of a comparison trains on these same windows.

Invariant: the windows of a document cover each of its tokens at most once, in order; what is left out because
no common cut exists within a window's length is counted.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from distillation.kernels.batch import IGNORED, stage_suffix
from distillation.models.load import start_token_id
from distillation.tokenizers.chat import ChatEncoder
from distillation.tokenizers.cutting import cut_pair
from distillation.tokenizers.pairs import EncodedPair, PairEncoder
from distillation.tokenizers.spans import group_ids

if TYPE_CHECKING:
    from datasets import Dataset as Documents

    from distillation.aligners.base import Aligner

logger = logging.getLogger(__name__)
ENCODING_BATCH = 256
"""Documents that are tokenised at a time."""
_ANOTHER_TEXT = "check that the two tokenizers can write this text"
_REMEDIES = {
    "no answer": "give conversations with messages of the role assistant that have a content",
    "the template writes a token": "resize the model's embeddings, or give the chat template that fits them",
    "the template": "give contents and roles as both chat templates write them, or a chat_template.jinja "
    "that leaves them as they are",
    "normalisers disagree": "bring the texts to one Unicode form (NFC) first",
}
"""Beginning of a cause -> what to do; the longer beginnings first."""
_NOT_OF_A_NAME = re.compile(r"[^\w/]+")
"""What MLflow may not take in the name of a metric, and spaces."""


@dataclass(frozen=True)
class WindowCounts:
    """What became of the documents."""

    num_documents: int
    num_refused: int
    """Documents whose bytes the two tokenizers do not agree on, conversations that a template changes."""
    num_windows: int
    num_student_tokens: int
    num_student_tokens_left_out: int
    num_windows_without_answer: int = 0
    """Windows that were dropped: nothing in them is trained on."""
    num_shortened: int = 0
    """Documents that lost a part: the stretch around what one side cannot spell."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Cause -> documents."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Cause -> student tokens that were lost in texts, those of refused ones included."""

    def by_name(self) -> dict[str, float]:
        """Return the counts as metrics; the causes are part of the names, as far as those may hold them."""
        counts = {
            "windows": self.num_windows,
            "refused_documents": self.num_refused,
            "shortened_documents": self.num_shortened,
            "lost_positions": sum(self.lost.values()),
            "left_out_positions": self.num_student_tokens_left_out,
        }
        causes = {f"refused_documents/{cause}": count for cause, count in self.refusals.items()}
        causes |= {f"lost_positions/{cause}": count for cause, count in self.lost.items()}
        named = {_NOT_OF_A_NAME.sub("_", name).strip("_"): count for name, count in causes.items()}
        return {name: float(count) for name, count in (counts | named).items()}

    def warnings(self, what: str) -> Iterator[str]:
        """Yield a line for each way in which something that was given is not used; `what`: the documents."""
        if self.num_refused:
            yield f"{self.num_refused} of {self.num_documents} {what} refused ({_listed(self.refusals)})"
        total = self.num_student_tokens + self.num_student_tokens_left_out
        if self.num_shortened:
            yield (
                f"{self.num_shortened} of {self.num_documents} {what} hold what one tokenizer cannot spell; "
                f"positions lost, in refused ones too: {_listed(self.lost)} (used: {self.num_student_tokens})"
            )
        if self.num_student_tokens_left_out:
            yield (
                f"{self.num_student_tokens_left_out} of {total} positions of {what} left out: no shared "
                "boundary within a window, or nothing to train on in it"
            )


class Windows(Dataset):
    """All windows of a corpus, in document order; `windows[i]` is an `EncodedPair`.

    Args:
        pairs: the windows.
        counts: what became of the documents.
        documents: which document each window is of.
    """

    def __init__(self, pairs: Sequence[EncodedPair], counts: WindowCounts, documents: Sequence[int]) -> None:
        self.pairs = list(pairs)
        self.counts = counts
        self.documents = list(documents)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EncodedPair:
        return self.pairs[index]

    @property
    def lengths(self) -> list[int]:
        """Student tokens of each window."""
        return [len(pair.student.ids) for pair in self.pairs]

    def index_of(self, first_ids: Sequence[int]) -> int | None:
        """Return the first window that begins with these student tokens and has one more; None: none has.

        Walks through all windows.
        """
        wanted = np.asarray(first_ids)
        found = (i for i, one in enumerate(self.pairs) if np.array_equal(one.student.ids[:-1], wanted))
        return next(found, None)


def make_windows(encoder: PairEncoder, documents: Sequence[str] | Documents, max_length: int) -> Windows:
    """Tokenise `documents` with both tokenizers and cut them into windows of at most `max_length` tokens.

    The start token counts: a window holds `max_length` - 1 tokens of text. A conversation that fits is one
    window; windows of longer ones in which nothing is trained on are dropped.

    Args:
        encoder: encodes with both tokenizers; why documents were refused is counted in its `refusals`.
        documents: texts, or a part of a corpus, which may hold conversations.
        max_length: tokens of a window with its start token.

    Raises:
        AlignmentError: there are conversations, and a tokenizer has no chat template.
    """
    pairs: list[EncodedPair] = []
    places: list[int] = []
    num_refused = num_tokens = num_kept = num_dropped = num_shortened = 0
    before = Counter(encoder.refusals), Counter(encoder.lost)
    for place, pair in enumerate(_encoded(encoder, documents)):
        if pair is None:
            num_refused += 1
            continue
        num_shortened += pair.losses is not None
        windows = list(cut_pair(pair, max_length - 1))
        num_cut = len(windows)
        windows = [one for one in windows if one.trained is None or one.trained.any()]
        num_tokens += len(pair.student.ids)
        num_kept += sum(len(window.student.ids) for window in windows)
        num_dropped += num_cut - len(windows)
        pairs += windows
        places += [place] * len(windows)
    left_out = num_tokens - num_kept
    counts = WindowCounts(
        len(documents),
        num_refused,
        len(pairs),
        num_kept,
        left_out,
        num_dropped,
        num_shortened,
        refusals=encoder.refusals - before[0],
        lost=encoder.lost - before[1],
    )
    for warning in counts.warnings("conversations" if _hold_conversations(documents) else "documents"):
        logger.warning("%s", warning)
    return Windows(pairs, counts, places)


def remedy_for(refusals: Mapping[str, int]) -> str:
    """Return what to do against the commonest cause of refusals."""
    worst = max(refusals, key=lambda cause: refusals[cause], default="")
    return next((remedy for begin, remedy in _REMEDIES.items() if worst.startswith(begin)), _ANOTHER_TEXT)


def _hold_conversations(documents: Sequence[str] | Documents) -> bool:
    return "messages" in (getattr(documents, "column_names", None) or ())


def _listed(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{cause}: {count}" for cause, count in Counter(causes).most_common(5))


def _encoded(encoder: PairEncoder, documents: Sequence[str] | Documents) -> Iterator[EncodedPair | None]:
    """Yield the pair of each document, None for one that was refused."""
    if not _hold_conversations(documents):
        is_list = getattr(documents, "column_names", None) is None
        texts = documents if is_list else documents["text"]  # type: ignore[call-overload]
        for begin in range(0, len(texts), ENCODING_BATCH):
            yield from encoder.encode(list(texts[begin : begin + ENCODING_BATCH]))
        return
    starts = [start_token_id(tokenizer) for tokenizer in encoder.tokenizers]
    chat = ChatEncoder(encoder, *starts)
    rows = documents["messages"]  # type: ignore[call-overload]
    for begin in range(0, len(rows), ENCODING_BATCH):
        yield from chat.encode([json.loads(row) for row in rows[begin : begin + ENCODING_BATCH]])


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
        """Return `input_ids`, `attention_mask`, `shift_labels` (B, T), and with an aligner:

        - `teacher_input_ids`, `teacher_attention_mask`, `teacher_labels` (B, S);
        - `group` (B, T) and `teacher_group` (B, S): stretches between shared boundaries, -1 outside of any;
        - `teacher_position`, `num_emitted`, `num_tail` (B, T), once more with `_1`, ... for each further
          stage of a schedule.
        """
        ids, mask, labels = _inputs_and_labels([pair.student.ids for pair in pairs], self.student_start)
        for row, pair in zip(labels, pairs, strict=True):
            if pair.trained is not None:
                row[: len(pair.trained)][~torch.from_numpy(pair.trained)] = IGNORED
        batch = {"input_ids": ids, "attention_mask": mask, "shift_labels": labels}
        if self.aligner is None:
            return batch
        ids, mask, labels = _inputs_and_labels([pair.teacher.ids for pair in pairs], self.teacher_start)
        batch |= {"teacher_input_ids": ids, "teacher_attention_mask": mask, "teacher_labels": labels}
        for name, group in zip(("group", "teacher_group"), group_ids(pairs), strict=True):
            batch[name] = torch.from_numpy(group.astype(np.int64))
        for index, stage in enumerate(self.aligner.stages):
            alignment, suffix = stage.align(pairs), stage_suffix(index)
            for name in ("teacher_position", "num_emitted", "num_tail"):
                values_BT = getattr(alignment, f"{name}_BT").astype(np.int64)
                batch[name + suffix] = torch.from_numpy(values_BT)
        return batch


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

    def padding_share(self) -> float:
        """Return which share of the positions of this epoch's batches is padding."""
        order = self.lengths[list(self)]
        begins = np.arange(0, len(order), self.batch_size)
        sizes = np.diff(begins, append=len(order))
        num_padded = np.maximum.reduceat(order, begins) @ sizes
        return 1.0 - float(order.sum() / num_padded)
