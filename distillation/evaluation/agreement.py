"""How closely a student's next-token distribution follows its teacher's.

Two tokenizers make distributions over different things, so they are compared where that is sound: at shared
byte boundaries whose next group is one token on both sides, over the token strings that both vocabularies
have, both sides renormalised (the `shared` aligner). Two figures over those positions:

    top-1 agreement  = share of positions where the most likely shared string is the same
    KL divergence    = mean over positions of  sum over strings q (log q - log p),  in nats

with q the teacher's and p the student's distribution.

Letters: B windows, T student positions, V student vocabulary, U teacher vocabulary, N compared positions,
D width.
Invariants (tests): a model compared with itself has agreement 1 and divergence 0; the batch size changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.errors import AlignmentError
from distillation.models.lm_head import LogitsReader, evaluating

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distillation.tokenizers.pairs import EncodedPair
    from distillation.tokenizers.spans import Alignment

MAX_BYTES = 50_000
"""Held-out text that is compared: two models run on it for every student, and the figures settle early."""


class Agreement(BaseModel):
    """A student beside its teacher, at shared boundaries."""

    model_config = ConfigDict(frozen=True)

    top1_agreement: float | None
    """Share of positions with the same most likely string; None without any position to compare."""
    kl_divergence: float | None
    """Mean KL(teacher || student) in nats; None without any position to compare."""
    num_positions: int
    """Positions compared."""
    num_student_tokens: int
    """Student tokens of the text that was read."""
    num_refused_documents: int
    """Documents whose bytes the two tokenizers write differently."""


def measure_agreement(
    teacher: Any,
    teacher_tokenizer: Any,
    student: Any,
    student_tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
    max_bytes: int | None = MAX_BYTES,
    teacher_states: dict[bytes, Tensor] | None = None,
    on_windows: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare `student` with `teacher` on the first `max_bytes` UTF-8 bytes of `texts`, in whole documents.

    Long documents are cut at shared boundaries so that both sides fit a window of `max_length` tokens.
    `teacher_states` is filled with the teacher's hidden states by batch: given again for further students of
    the same teacher and tokenizer, it spares running the teacher anew (50 kB of text and a width of 4,096 in
    bfloat16 are about 100 MB).

    Raises:
        AlignmentError: a tokenizer has no start token, or the two cannot be aligned at all.
    """
    import torch

    from distillation.aligners.build import build_aligner
    from distillation.models.load import start_token_id
    from distillation.tokenizers.cutting import cut_pair
    from distillation.tokenizers.pairs import PairEncoder

    teacher_start, student_start = start_token_id(teacher_tokenizer), start_token_id(student_tokenizer)
    if teacher_start is None or student_start is None:
        raise AlignmentError(
            "a tokenizer has no start token: the models cannot be compared position by position"
        )
    readers = (LogitsReader(teacher), LogitsReader(student))
    rows: dict[str, Any] = {"num_teacher_rows": readers[0].num_rows, "num_student_rows": readers[1].num_rows}
    encoder = PairEncoder(teacher_tokenizer, student_tokenizer, **rows)
    encoded = encoder.encode(_first_bytes(texts, max_bytes))
    windows = [window for pair in encoded if pair is not None for window in cut_pair(pair, max_length - 1)]
    aligner = build_aligner("shared", teacher_tokenizer, student_tokenizer, **rows).to(readers[1].device)
    windows.sort(key=lambda window: -len(window.student.ids))
    tally = _Tally()
    with torch.inference_mode(), evaluating(teacher), evaluating(student):
        for begin in range(0, len(windows), batch_size):
            batch = windows[begin : begin + batch_size]
            _compare_batch(readers, aligner, batch, (teacher_start, student_start), tally, teacher_states)
            if on_windows is not None:
                on_windows(min(begin + batch_size, len(windows)), len(windows))
    return Agreement(
        top1_agreement=tally.num_agreeing / tally.num_positions if tally.num_positions else None,
        kl_divergence=tally.mean_divergence,
        num_positions=tally.num_positions,
        num_student_tokens=sum(len(window.student.ids) for window in windows),
        num_refused_documents=sum(pair is None for pair in encoded),
    )


@dataclass
class _Tally:
    num_positions: int = 0
    num_agreeing: int = 0
    divergence: float = 0.0

    @property
    def mean_divergence(self) -> float | None:
        """What rounding takes below 0 is 0; what is no number stays none, which `max` would make 0."""
        if not self.num_positions:
            return None
        mean = self.divergence / self.num_positions
        return 0.0 if mean < 0 else mean


def _first_bytes(texts: Sequence[str], max_bytes: int | None) -> list[str]:
    """Return whole documents until `max_bytes` are reached, and at least one."""
    chosen: list[str] = []
    num_bytes = 0
    for text in texts:
        if max_bytes is not None and chosen and num_bytes >= max_bytes:
            break
        chosen.append(text)
        num_bytes += len(text.encode("utf-8"))
    return chosen


def _compare_batch(
    readers: tuple[LogitsReader, LogitsReader],
    aligner: Any,
    batch: list[EncodedPair],
    starts: tuple[int, int],
    tally: _Tally,
    teacher_states: dict[bytes, Tensor] | None,
) -> None:
    import torch

    alignment: Alignment = aligner.align(batch)
    window_N, student_position_N = np.nonzero(alignment.teacher_position_BT >= 0)
    if not len(window_N):
        return
    teacher_position_N = alignment.teacher_position_BT[window_N, student_position_N]
    teacher_ids_BT, teacher_mask_BT = _inputs([pair.teacher.ids for pair in batch], starts[0])
    student_ids_BT, student_mask_BT = _inputs([pair.student.ids for pair in batch], starts[1])
    device = readers[1].device
    teacher_states_BTD = _states(readers[0], teacher_ids_BT, teacher_mask_BT, teacher_states)
    teacher_states_ND = teacher_states_BTD[window_N, teacher_position_N].to(readers[0].device)
    student_states_ND = readers[1].states(student_ids_BT, student_mask_BT)[window_N, student_position_N]
    # Row j predicts the token after `[start, ...]`'s j-th: one further on in the padded inputs.
    teacher_tokens_N = teacher_ids_BT[window_N, teacher_position_N + 1].to(device)
    student_tokens_N = student_ids_BT[window_N, student_position_N + 1].to(device)
    size = min(reader.chunk_size for reader in readers)
    for begin in range(0, len(window_N), size):
        chunk = slice(begin, begin + size)
        log_probs_NU = readers[0].logits(teacher_states_ND[chunk]).log_softmax(dim=-1).to(device)
        rows = _rows(teacher_tokens_N[chunk], student_tokens_N[chunk])
        targets = aligner.targets(log_probs_NU, rows)
        logits_NV = readers[1].logits(student_states_ND[chunk])
        if aligner.student_support_V is not None:
            logits_NV = logits_NV.masked_fill(~aligner.student_support_V, -torch.inf)
        probabilities_NV = targets.probabilities_NV.float()[targets.usable_N]
        log_probs_NV = logits_NV[targets.usable_N].log_softmax(dim=-1)
        tally.num_positions += len(log_probs_NV)
        tally.num_agreeing += int((probabilities_NV.argmax(-1) == log_probs_NV.argmax(-1)).sum())
        tally.divergence += _divergence(probabilities_NV, log_probs_NV).cpu().double().sum().item()


def _states(
    reader: LogitsReader, ids_BT: Tensor, mask_BT: Tensor, known: dict[bytes, Tensor] | None
) -> Tensor:
    if known is None or not reader.is_split:  # whole logits would be too large to keep
        return reader.states(ids_BT, mask_BT)
    key = ids_BT.numpy().tobytes() + mask_BT.sum(-1).numpy().tobytes()
    if key not in known:
        known[key] = reader.states(ids_BT, mask_BT).cpu()
    return known[key]


def _inputs(ids: list[np.ndarray], start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `[start] + ids` right-padded with 0, and the mask: both (B, longest + 1), int64."""
    import torch

    padded = np.zeros((len(ids), max(map(len, ids)) + 1), dtype=np.int64)
    mask = np.zeros_like(padded)
    padded[:, 0] = start
    for row, tokens in enumerate(ids):
        padded[row, 1 : len(tokens) + 1] = tokens
        mask[row, : len(tokens) + 1] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def _rows(teacher_token_N: Tensor, student_token_N: Tensor) -> Any:
    """Return the rows of positions at shared boundaries: nothing emitted, nothing covered beyond."""
    import torch

    from distillation.aligners.base import Rows

    zeros = torch.zeros_like(student_token_N)
    return Rows(
        teacher_token_N=teacher_token_N,
        student_token_N=student_token_N,
        num_emitted_N=zeros,
        num_tail_N=zeros,
        tail_log_prob_N=zeros.float(),
    )


def _divergence(probabilities_NV: Tensor, log_probs_NV: Tensor) -> Tensor:
    """Return KL(probabilities || student) of each row, in nats; 0 log 0 is 0."""
    import torch

    cross_NV = torch.where(probabilities_NV > 0, probabilities_NV * log_probs_NV, 0.0)
    return torch.xlogy(probabilities_NV, probabilities_NV).sum(-1) - cross_NV.sum(-1)
