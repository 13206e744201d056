"""A model as lm-evaluation-harness sees it, with this package's conventions in place of the library's own.

    start     each text begins with the tokenizer's start token, whether or not the tokenizer adds it itself
    specials  a literal `<|endoftext|>` in a text is spelt out like other text
    parting   the tokens to score begin where the encodings of `context` and `context + continuation` part;
              the library counts tokens instead, which goes wrong where a token reaches across the boundary
    memory    only positions that are scored pass through the output layer, a chunk at a time: the library
              would hold (batch, positions, vocabulary) twice, 5 GB for 16 x 256 x 151,936

Imported only where a task is run, as it imports the library.

Letters: B inputs of a batch, T positions, N scored positions, V vocabulary, D width.
Invariants (tests): log-probabilities equal those of a forward pass written by hand, whatever the batch size;
the tokenizer, the model and its mode are left as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval import utils
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from distillation.models.lm_head import LogitsReader, evaluating, num_input_rows
from distillation.models.load import start_token_id
from distillation.tokenizers.plain_text import PlainText

DEFAULT_LENGTH = 2048
"""Longest input of a model that does not say how much it holds."""


@dataclass(frozen=True)
class _Request:
    """What is read, and the tokens that its last positions are scored on."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class HarnessModel(HFLM):
    """A loaded model and its fast tokenizer for the tasks of lm-eval.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        tokens_per_batch: tokens in one forward pass; fewer inputs share one where they are long.
        on_requests: told (requests done, requests in all) after each forward pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        tokens_per_batch: int,
        on_requests: Callable[[int, int], None] | None = None,
    ) -> None:
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_LENGTH
        padding = tokenizer.pad_token_id
        if padding is None or padding >= num_input_rows(model):
            tokenizer = copy.deepcopy(tokenizer)  # the library gives it a padding token
            tokenizer.pad_token = None
        was_training = model.training
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            max_length=int(limit),
            batch_size=max(1, tokens_per_batch // int(limit)),  # of what is written, not of what is scored
            prefix_token_id=start_token_id(tokenizer),
        )
        model.train(was_training)
        self._reader = LogitsReader(model)
        self._reader_of_text = PlainText(tokenizer, num_input_rows(model))
        self._tokens_per_batch = tokens_per_batch
        self._on_requests = on_requests

    # -------------------------------------------------------------------------------------- tokens

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Return the ids of a text after its start token, or without one if `add_special_tokens` is False."""
        [ids] = self._reader_of_text.ids([string])
        ids = ids if add_special_tokens is False else [*self._start, *ids]
        return ids if left_truncate_len is None else self._cut(ids, left_truncate_len)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the ids (B, T) and mask of prompts that the model is to continue."""
        rows = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        num_positions = max(map(len, rows))
        ids_BT = torch.full((len(rows), num_positions), self.tokenizer.pad_token_id)
        mask_BT = torch.zeros_like(ids_BT)
        for row, ids in enumerate(rows):
            place = slice(num_positions - len(ids), None) if padding_side == "left" else slice(len(ids))
            ids_BT[row, place] = torch.tensor(ids)
            mask_BT[row, place] = 1
        return ids_BT, mask_BT

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids before and after the place where `context` and the whole part."""
        kept = context.rstrip()  # white space belongs to the word after it, as the library has it
        before, whole = self.tok_encode(kept), self.tok_encode(context + continuation)
        # The common beginning, and at least one token to be scored.
        num_common = next(
            (place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
            min(len(before), len(whole) - 1),
        )
        return whole[:num_common], whole[num_common:]

    @property
    def _start(self) -> list[int]:
        return [] if self.custom_prefix_token_id is None else [self.custom_prefix_token_id]

    def _cut(self, ids: Sequence[int], length: int) -> list[int]:
        """Return the start token, if there is one, and the last tokens: `length` in all at most."""
        if len(ids) <= length:
            return list(ids)
        start = self._start if list(ids[:1]) == self._start else []
        return [*start, *ids[len(ids) - length + len(start) :]]

    def _model_generate(self, *args: Any, **kwargs: Any) -> Tensor:
        with evaluating(self.model):
            return super()._model_generate(*args, **kwargs)

    # ------------------------------------------------------------------------------------- scoring

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability, in nats, of each whole text, read in windows that do not overlap."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            first = self._start[0] if self._start else ids.pop(0)
            for window in utils.get_rolling_token_windows(ids, first, self.max_length, context_len=1):
                context, scored = utils.make_disjoint_window(window)
                windows.append((None, context, scored))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (log_prob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += log_prob
        return sums

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether each token is the likeliest) of each continuation."""
        wanted = [self._request(context, continuation) for _, context, continuation in requests]
        by_inputs: dict[tuple[int, ...], list[int]] = {}
        for number, request in enumerate(wanted):
            by_inputs.setdefault(request.inputs, []).append(number)  # choices of one token share a pass
        answers: dict[int, tuple[float, bool]] = {}
        with torch.inference_mode(), evaluating(self.model):
            for batch in self._batches(by_inputs):
                numbers = [number for inputs in batch for number in by_inputs[inputs]]
                rows = [row for row, inputs in enumerate(batch) for _ in by_inputs[inputs]]
                scores = self._score(batch, rows, [wanted[number].targets for number in numbers])
                answers.update(zip(numbers, scores, strict=True))
                if self._on_requests is not None:
                    self._on_requests(len(answers), len(requests))
        return [answers[number] for number in range(len(requests))]

    def _request(self, context: list[int], continuation: list[int]) -> _Request:
        ids = self._cut([*context, *continuation], self.max_length + 1)
        if len(ids) < 2:
            raise ValueError("a text of one token, and a tokenizer without a start token")
        return _Request(tuple(ids[:-1]), tuple(ids[-min(len(continuation), len(ids) - 1) :]))

    def _batches(self, inputs: Iterable[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Part the inputs by length, the longest first: too little memory shows at once."""
        batches: list[list[tuple[int, ...]]] = []
        for one in sorted(inputs, key=lambda ids: (-len(ids), ids)):
            if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > self._tokens_per_batch:
                batches.append([])
            batches[-1].append(one)
        return batches

    def _score(
        self, batch: list[tuple[int, ...]], rows: list[int], targets: list[tuple[int, ...]]
    ) -> list[tuple[float, bool]]:
        """Score the last positions of `batch[rows[k]]` on `targets[k]`."""
        ids_BT = torch.zeros((len(batch), len(batch[0])), dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, ids in enumerate(batch):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            mask_BT[row, : len(ids)] = 1
        states_BTD = self._reader.states(ids_BT, mask_BT)
        states_ND = torch.cat(
            [
                states_BTD[row, len(batch[row]) - len(scored) : len(batch[row])]
                for row, scored in zip(rows, targets, strict=True)
            ]
        )
        targets_N = torch.tensor([token for scored in targets for token in scored], device=states_ND.device)
        parts = [
            _score_chunk(self._reader.logits(states), tokens)
            for states, tokens in zip(
                states_ND.split(self._reader.chunk_size),
                targets_N.split(self._reader.chunk_size),
                strict=True,
            )
        ]
        log_probs_N, is_best_N = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        lengths = [len(scored) for scored in targets]
        return [
            (float(log_probs.double().sum()), bool(is_best.all()))
            for log_probs, is_best in zip(log_probs_N.split(lengths), is_best_N.split(lengths), strict=True)
        ]


def _score_chunk(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return each target's log-probability, and whether it is the likeliest token."""
    log_probs_N = logits_NV.gather(-1, targets_N[:, None]).squeeze(-1) - logits_NV.logsumexp(dim=-1)
    return log_probs_N, logits_NV.argmax(dim=-1) == targets_N
