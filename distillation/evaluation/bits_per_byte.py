"""Bits per byte: how many bits a model needs for each UTF-8 byte of a text.

    bits per byte = -(sum over all tokens of log2 p(token | tokens before it)) / (UTF-8 bytes of the texts)

Perplexities of models with different tokenizers cannot be compared, as their tokens differ in length; bytes
are the same for everyone. Whole documents count: a start token is put before the text so that its first token
has a prediction, and a document longer than a window is read by sliding windows. A window holds `max_length`
tokens, the first scores all it holds, each further one scores the next `stride` tokens with the others as
left context.

Tokens whose string is a special token's (a literal `<|endoftext|>` in a text) are spelt out like other text.
Texts that one of the tokenizers cannot spell as a whole are none to compare models on: the corpus leaves them
out for all (`corpus.loading`), and `num_unknown_tokens` is then 0.
Without a start token nothing predicts the first token of a document: it is not scored, *its bytes are not
counted*, and `num_unscored_bytes` says how many those were.

Letters: B windows of a batch, T positions, V vocabulary, N scored positions.
Invariants (tests): every token is scored exactly once; the result does not depend on the batch size or on
padding; a window that holds the document equals the full context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.errors import CorpusError, SettingsError
from distillation.evaluation.reliability import ConfidenceTally, Reliability
from distillation.models.lm_head import LogitsReader, evaluating, num_input_rows
from distillation.tokenizers.plain_text import PlainText

if TYPE_CHECKING:
    from torch import Tensor

ENCODING_BATCH = 256
"""Documents that are tokenised at a time."""


@dataclass(frozen=True)
class BitsPerByte:
    """What a model makes of some documents. Bits are log2; bytes are UTF-8 of the text as given."""

    bits_per_byte: float
    """`total_bits / num_bytes`; lower is better."""
    total_bits: float
    num_bytes: int
    """Bytes that count: all of them, less `num_unscored_bytes`."""
    num_documents: int
    num_tokens: int
    """Tokens scored, of the model's own tokenizer."""
    num_unscored_bytes: int
    """Bytes of first tokens that nothing predicts; 0 when the tokenizer has a start token."""
    num_unknown_tokens: int
    """Tokens that stand for text the tokenizer cannot write: bits of such documents are too low."""
    per_document_bits: tuple[float, ...]
    per_document_bytes: tuple[int, ...]
    accuracy: float
    """Share of tokens that were the most likely one."""
    expected_calibration_error: float
    """Mean distance between the probability of the most likely token and how often it was right, 15 bins."""
    reliability: Reliability
    """The bins behind it."""


@dataclass(frozen=True)
class Window:
    """A stretch of one document: `ids[first_scored:]` are scored, each given all before it in `ids`."""

    document: int
    ids: np.ndarray
    first_scored: int


def bits_per_byte(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int,
    stride: int,
    batch_size: int,
    on_windows: Callable[[int, int], None] | None = None,
) -> BitsPerByte:
    """Measure `model` on whole `texts`.

    Args:
        model: a causal language model of transformers; its mode (train or eval) is left as it was.
        tokenizer: its fast tokenizer.
        texts: the documents; order does not matter for the result.
        max_length: tokens of a window, start token included.
        stride: new tokens that each window after the first scores; less than `max_length`.
        batch_size: windows in one forward pass.
        on_windows: told (windows done, windows in all) after each batch, for a progress bar.

    Raises:
        SettingsError: the stride or the window does not fit.
        CorpusError: the texts hold nothing to score.
    """
    from distillation.models.load import start_token_id

    _check_lengths(model, max_length, stride)
    start = start_token_id(tokenizer)
    documents = encode_documents(tokenizer, texts, start, num_input_rows(model))
    windows = [
        window
        for index, document in enumerate(documents)
        for window in split_into_windows(document.ids, document.first_scored, max_length, stride, index)
    ]
    num_bytes = sum(document.num_bytes for document in documents)
    if not windows or num_bytes == 0:
        raise CorpusError("the texts to evaluate are empty: give held-out documents with text in them")
    bits, tally = _score(model, windows, batch_size, len(texts), on_windows)
    total_bits = float(bits.sum())
    return BitsPerByte(
        bits_per_byte=total_bits / num_bytes,
        total_bits=total_bits,
        num_bytes=num_bytes,
        num_documents=len(texts),
        num_tokens=tally.num_tokens,
        num_unscored_bytes=sum(document.num_unscored_bytes for document in documents),
        num_unknown_tokens=sum(document.num_unknown for document in documents),
        per_document_bits=tuple(bits.tolist()),
        per_document_bytes=tuple(document.num_bytes for document in documents),
        accuracy=tally.accuracy,
        expected_calibration_error=tally.error,
        reliability=tally.reliability,
    )


def split_into_windows(
    ids: np.ndarray, first_scored: int, max_length: int, stride: int, document: int = 0
) -> Iterator[Window]:
    """Cut `ids` (one document with its start token) so that each id from `first_scored` on is scored once."""
    scored_to = max(first_scored, 1)
    end = min(len(ids), max_length)
    while scored_to < len(ids):
        end = max(end, scored_to + 1)
        begin = max(0, end - max_length)
        yield Window(document, ids[begin:end], scored_to - begin)
        scored_to, end = end, min(len(ids), end + stride)


@dataclass(frozen=True)
class EncodedDocument:
    """A document in a model's own tokens, as its bits per byte are measured."""

    ids: np.ndarray
    """int64 (num_ids,): the start token, if there is one, and the text's tokens."""
    first_scored: int
    """Index of the first id that something predicts."""
    num_bytes: int
    num_unscored_bytes: int
    num_unknown: int


def encode_documents(
    tokenizer: Any, texts: Sequence[str], start: int | None, num_rows: int | None = None
) -> list[EncodedDocument]:
    """Return each text after the token `start`; special tokens' strings in it are spelt out.

    So are those of added tokens that a model of `num_rows` rows does not have.
    """
    reader = PlainText(tokenizer, num_rows)
    unknown = tokenizer.unk_token_id
    documents = []
    for begin in range(0, len(texts), ENCODING_BATCH):
        batch = texts[begin : begin + ENCODING_BATCH]
        encodings = reader.encodings(batch)
        documents += [_document(*both, start, unknown) for both in zip(batch, encodings, strict=True)]
    return documents


def _document(text: str, encoding: Any, start: int | None, unknown: int | None) -> EncodedDocument:
    ids = np.asarray(encoding.ids, dtype=np.int64)
    num_unknown = int((ids == unknown).sum()) if unknown is not None else 0
    num_bytes = len(text.encode("utf-8"))
    if start is not None:
        return EncodedDocument(np.concatenate([[start], ids]), 1, num_bytes, 0, num_unknown)
    if not len(ids):
        return EncodedDocument(ids, 0, 0, num_bytes, 0)
    # A byte-level token may end inside a character: all tokens of the first token's characters go unscored.
    ends = np.asarray([end for _, end in encoding.offsets])
    unscored_bytes = len(text[: ends[0]].encode("utf-8"))
    first_scored = int((ends <= ends[0]).sum())
    return EncodedDocument(ids, first_scored, num_bytes - unscored_bytes, unscored_bytes, num_unknown)


def _score(
    model: Any,
    windows: list[Window],
    batch_size: int,
    num_documents: int,
    on_windows: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, ConfidenceTally]:
    """Run all windows through the model; return each document's bits and the tally of confidence."""
    import torch

    reader = LogitsReader(model)
    bits, tally = np.zeros(num_documents), ConfidenceTally()
    # Windows of like length share a batch, so that little is padded; the longest go first, so that a machine
    # with too little memory fails at once and not at the end.
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].ids))
    with torch.inference_mode(), evaluating(model):
        for begin in range(0, len(order), batch_size):
            batch = [windows[index] for index in order[begin : begin + batch_size]]
            scores = score_windows(reader, batch)
            documents = np.asarray([window.document for window in batch])[scores.windows]
            np.add.at(bits, documents, scores.bits)
            tally.add(scores.confidences, scores.correct)
            if on_windows is not None:
                on_windows(min(begin + batch_size, len(order)), len(order))
    return bits, tally


@dataclass(frozen=True)
class Scores:
    """The scored tokens of some windows, in the order of the windows and, in each, of the text; all (N,)."""

    windows: np.ndarray
    """int64: index of the window that scored the token."""
    bits: np.ndarray
    """float64: -log2 of the token's probability."""
    confidences: np.ndarray
    """float64: probability of the most likely token."""
    correct: np.ndarray
    """float64: 1 where that token is the right one."""


def score_windows(reader: LogitsReader, batch: Sequence[Window]) -> Scores:
    """Score the windows of one batch; call it in inference mode."""
    import torch

    # The last token of a window is only a target: it need not be read.
    num_positions = max(len(window.ids) for window in batch) - 1
    inputs = np.zeros((len(batch), num_positions), dtype=np.int64)
    targets = np.zeros_like(inputs)
    mask = np.zeros_like(inputs)
    is_scored = np.zeros(inputs.shape, dtype=bool)
    for row, window in enumerate(batch):
        length = len(window.ids) - 1
        inputs[row, :length] = window.ids[:-1]
        targets[row, :length] = window.ids[1:]
        mask[row, :length] = 1
        is_scored[row, window.first_scored - 1 : length] = True
    rows, _ = np.nonzero(is_scored)
    states_BTD = reader.states(torch.from_numpy(inputs), torch.from_numpy(mask))
    states_ND = states_BTD[torch.from_numpy(is_scored).to(states_BTD.device)]
    targets_N = torch.from_numpy(targets[is_scored]).to(states_ND.device)
    scores = [
        _score_chunk(reader.logits(states), target_ids)
        for states, target_ids in zip(
            states_ND.split(reader.chunk_size), targets_N.split(reader.chunk_size), strict=True
        )
    ]
    log_probs, confidences, correct = (
        torch.cat(parts).cpu().double().numpy() for parts in zip(*scores, strict=True)
    )
    return Scores(rows, -log_probs / math.log(2.0), confidences, correct)


def _score_chunk(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the target's log-probability, the largest probability, and whether they are the same token's."""
    normaliser_N = logits_NV.logsumexp(dim=-1)
    log_probs_N = logits_NV.gather(-1, targets_N[:, None]).squeeze(-1) - normaliser_N
    largest_N, best_N = logits_NV.max(dim=-1)
    return log_probs_N, (largest_N - normaliser_N).exp(), best_N == targets_N


def _check_lengths(model: Any, max_length: int, stride: int) -> None:
    if max_length < 2:
        raise SettingsError(f"setting evaluation.max_length = {max_length}: a window needs at least 2 tokens")
    if not 0 < stride < max_length:
        raise SettingsError(
            f"setting evaluation.stride = {stride}: must be from 1 to {max_length - 1}, "
            "below evaluation.max_length"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise SettingsError(
            f"setting evaluation.max_length = {max_length}: the model holds {limit} positions; lower it"
        )
