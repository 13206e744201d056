"""The live teacher: runs beside the student, without gradients, and forms only the logits that are asked for.

Legend, at the end of names: B windows, S teacher positions, D width, n rows, U teacher vocabulary.
"""

# ruff: noqa: N802, N815 - the shape suffixes stand in field names too.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.evaluation.logits import LogitsReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher's body says of a batch."""

    states_BSD: Tensor
    """What `LiveTeacher.log_probs` takes rows of."""
    hidden_states: tuple[Tensor, ...] = ()
    """(B, S, D) after the embedding and after each layer, where asked for."""
    attentions: tuple[Tensor, ...] = ()
    """(B, heads, S, S) of each layer, where asked for."""


class LiveTeacher:
    """A frozen causal language model: hidden states first, log-probabilities of chosen rows after."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.reader = LogitsReader(model.eval().requires_grad_(False))

    @property
    def num_rows(self) -> int:
        """U, rows of the output layer."""
        return self.reader.num_rows

    @property
    def embedding_UD(self) -> Tensor:
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
        body = self.reader.model.base_model if self.reader.is_split else self.reader.model
        outputs = body(
            input_ids=input_ids_BS,
            attention_mask=attention_mask_BS,
            use_cache=False,
            output_hidden_states=True,
            output_attentions=with_attentions,
        )
        states_BSD = outputs.last_hidden_state if self.reader.is_split else outputs.logits
        return TeacherOutput(states_BSD, tuple(outputs.hidden_states), tuple(outputs.attentions or ()))

    @torch.no_grad()
    def log_probs(self, states_nD: Tensor, temperature: float = 1.0) -> Tensor:
        """Return float32 log-probabilities (n, U) of rows of `states`."""
        logits_nU = self.reader.logits(states_nD)
        return (logits_nU if temperature == 1.0 else logits_nU / temperature).log_softmax(-1)

    @torch.no_grad()
    def token_log_probs(self, states_nD: Tensor, tokens_n: Tensor, temperature: float = 1.0) -> Tensor:
        """Return float32 (n,): the log-probability of one token a row, `chunk_size` rows at a time."""
        parts = [
            self.log_probs(states, temperature).gather(1, tokens[:, None]).squeeze(1)
            for states, tokens in zip(
                states_nD.split(self.reader.chunk_size), tokens_n.split(self.reader.chunk_size), strict=True
            )
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def token_and_set_log_probs(self, states_nD: Tensor, tokens_n: Tensor, member_U: Tensor) -> Tensor:
        """Return float32 (n, 2): the log-probability of one token a row, and that of a set, bool (U,)."""
        ids = member_U.nonzero().squeeze(1)
        size, parts = self.reader.chunk_size, []
        for states, tokens in zip(states_nD.split(size), tokens_n.split(size), strict=True):
            log_probs = self.log_probs(states)
            token = log_probs.gather(1, tokens[:, None]).squeeze(1)
            parts.append(torch.stack([token, log_probs.index_select(1, ids).logsumexp(1)], dim=1))
        return torch.cat(parts)
