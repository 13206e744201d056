"""The live teacher: runs beside the student, without gradients, and forms only the logits that are asked for.

Legend, at the end of names: B windows, S teacher positions, D width, n rows, U teacher vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.evaluation.logits import LogitsReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LiveTeacher:
    """A frozen causal language model: hidden states first, log-probabilities of chosen rows after."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.reader = LogitsReader(model.eval().requires_grad_(False))

    @property
    def num_rows(self) -> int:
        """U, rows of the output layer."""
        return self.reader.num_rows

    @torch.no_grad()
    def states(self, input_ids_BS: Tensor, attention_mask_BS: Tensor) -> Tensor:
        """Return what `log_probs` takes rows of, (B, S, D)."""
        return self.reader.states(input_ids_BS, attention_mask_BS)

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
