"""The live teacher: runs beside the student, without gradients, and forms only the logits that are asked for.

Legend, at the end of names: B windows, S teacher positions, D width, n or R rows, U teacher vocabulary, u
columns of a tile.
"""

# ruff: noqa: N802 - the shape suffixes stand in field names too.
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.kernels.batch import Teacher, TeacherOutput
from distillation.kernels.online_softmax import (
    DenseRows,
    OnlineSoftmax,
    TeacherRows,
    Tile,
    column_slices,
    logits_at,
    tile_columns,
)
from distillation.models.lm_head import LogitsReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LiveTeacher(Teacher):
    """A frozen causal language model: hidden states first, log-probabilities of chosen rows after."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.reader = LogitsReader(model.eval().requires_grad_(False))

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        """U, rows of the output layer."""
        return self.reader.num_rows

    @property
    def embedding_UE(self) -> Tensor:
        """The input embedding."""
        return self.reader.model.get_input_embeddings().weight

    @torch.no_grad()
    def run(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        with_hidden_states: bool = False,
        with_attentions: bool = False,
    ) -> TeacherOutput:
        """Run the body on a batch."""
        if not (with_hidden_states or with_attentions):
            return TeacherOutput(self.reader.states(input_ids_BS, attention_mask_BS))
        outputs = self.reader.run(
            input_ids_BS,
            self.reader.attention_mask(attention_mask_BS),
            output_hidden_states=True,
            output_attentions=with_attentions,
        )
        states_BSD = self.reader.states_of(outputs)
        # Not every output has both fields: a model without attention has no maps to return.
        inner = (tuple(outputs.get("hidden_states") or ()), tuple(outputs.get("attentions") or ()))
        return TeacherOutput(states_BSD, *inner)

    def start(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        with_hidden_states: bool = False,
        with_attentions: bool = False,
    ) -> Callable[[], TeacherOutput]:
        """Begin `run` beside what the device does next and return what waits for its output.

        On a CUDA device it is queued on a stream of its own. A processor has nothing to spare: it runs when
        the output is asked for.
        """
        run = functools.partial(
            self.run, input_ids_BS, attention_mask_BS, with_hidden_states, with_attentions
        )
        if not input_ids_BS.is_cuda:
            return run
        stream = _side_stream(input_ids_BS.device)
        stream.wait_stream(torch.cuda.current_stream(stream.device))  # the batch is copied there
        with torch.cuda.stream(stream):
            output = run()

        def finish() -> TeacherOutput:
            current = torch.cuda.current_stream(stream.device)
            current.wait_stream(stream)
            for tensor in (output.states_BSD, *output.hidden_states, *output.attentions):
                tensor.record_stream(current)  # else its memory might be used again while it is read there
            return output

        return finish

    def is_finite(self, batch: Mapping[str, Tensor]) -> bool:
        """See `Teacher.is_finite`."""
        output = self.run(batch["teacher_input_ids"], batch["teacher_attention_mask"])
        states_nD = output.states_BSD[batch["teacher_labels"] >= 0]
        # A column that a model excludes is minus infinity, which is right; a row's total never is.
        parts = states_nD.split(self.reader.chunk_size)
        return all(bool(self.log_probs(part).amax(-1).isfinite().all()) for part in parts)

    def rows(self, states_RD: Tensor, temperature: float = 1.0) -> LiveRows:
        """Return rows of `states` as an aligner reads them; nothing is computed yet."""
        return LiveRows(self.reader, states_RD, temperature)

    @torch.no_grad()
    def log_probs(self, states_nD: Tensor, temperature: float = 1.0) -> Tensor:
        """Return float32 log-probabilities (n, U) of rows of `states`."""
        logits_nU = self.reader.logits(states_nD)
        return (logits_nU if temperature == 1.0 else logits_nU / temperature).log_softmax(-1)

    def token_log_probs(self, states_nD: Tensor, tokens_n: Tensor, temperature: float = 1.0) -> Tensor:
        """Return float32 (n,): the log-probability of one token a row, without whole rows of logits."""
        nothing_U = torch.zeros(0, dtype=torch.bool, device=tokens_n.device)
        return self._token_and_set(states_nD, tokens_n, nothing_U, temperature)[:, 0]

    def token_and_set_log_probs(self, states_nD: Tensor, tokens_n: Tensor, member_U: Tensor) -> Tensor:
        """Return float32 (n, 2): the log-probability of one token a row, and that of a set, bool (U,)."""
        return self._token_and_set(states_nD, tokens_n, member_U, 1.0)

    @torch.no_grad()
    def _token_and_set(
        self, states_nD: Tensor, tokens_n: Tensor, member_U: Tensor, temperature: float
    ) -> Tensor:
        own_n = torch.arange(len(tokens_n), device=tokens_n.device)
        logit_n, set_n = torch.zeros(2, len(tokens_n), device=tokens_n.device)
        softmax = OnlineSoftmax()
        for columns, logits_un in self.rows(states_nD, temperature).tiles():
            logit_n = logits_at(columns, logits_un, tokens_n, own_n, logit_n)
            factor_n = softmax.weigh(logits_un)
            set_n = set_n if factor_n is None else set_n * factor_n
            members = member_U[columns].nonzero().squeeze(1)
            set_n = set_n + logits_un.index_select(0, members).sum(0)
        # A set without any mass has a small logarithm, not none: it is subtracted and multiplied with later.
        least = torch.finfo(set_n.dtype).tiny
        log_set_n = (set_n / softmax.total_R).clamp_min(least).log()
        return torch.stack([logit_n - softmax.log_total_R, log_set_n], dim=1)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class LiveRows(TeacherRows):
    """The output layer over some of the teacher's states, computed when it is read."""

    def __init__(self, reader: LogitsReader, states_RD: Tensor, temperature: float) -> None:
        self.reader, self.states_RD, self.temperature = reader, states_RD, temperature
        self.num_rows, self.num_columns = len(states_RD), reader.num_rows

    @torch.no_grad()
    def tiles(self, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """See `TeacherRows.tiles`."""
        linear = self.reader.plain_head
        if linear is None:
            yield from DenseRows(self._softened(self.reader.logits(self.states_RD))).tiles(width)
            return
        # The weights in front: a product of long columns, faster than one of long rows on a processor.
        states_DR = self.states_RD.to(linear.weight.dtype).T.contiguous()
        size = min(tile_columns(states_DR, self.num_rows), self.num_columns)
        tile = Tile(states_DR, size, self.num_rows, width)
        for columns in column_slices(self.num_columns, size):
            logits_uR, whole = tile.of(columns)
            if linear.weight.dtype == torch.float32:
                torch.mm(linear.weight[columns], states_DR, out=logits_uR)
            else:
                logits_uR.copy_(linear.weight[columns] @ states_DR)
            if linear.bias is not None:
                logits_uR += linear.bias[columns, None]
            if self.temperature != 1.0:
                logits_uR /= self.temperature
            yield columns, whole

    @torch.no_grad()
    def log_probs(self, index_k: Tensor) -> Tensor:
        """See `TeacherRows.log_probs`."""
        return self._softened(self.reader.logits(self.states_RD[index_k])).log_softmax(-1)

    def _softened(self, logits: Tensor) -> Tensor:
        return logits if self.temperature == 1.0 else logits / self.temperature
