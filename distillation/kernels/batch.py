"""One batch as the terms of an objective read it: positions, groups, and what the teacher says.

Legend, at the end of names: B windows, T student positions, S teacher positions, M = B x S teacher rows,
N used positions, n positions of a chunk, G groups of all windows (B x the most of any window), D width,
U teacher vocabulary, V student vocabulary, L layers.

Everything of the teacher is made when it is first asked for: an objective without a term that needs it costs
nothing. A used position is one with a label: padding, prompts and special tokens have none.
"""

# ruff: noqa: N802, N815 - the shape suffixes stand in field names too.
from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distillation.kernels.chunked import OutputLayer

if TYPE_CHECKING:
    from distillation.kernels.online_softmax import TeacherRows

IGNORED = -100


def standardised(states: Tensor) -> Tensor:
    """Return states (..., D) with mean 0 and variance 1 over their width."""
    return torch.nn.functional.layer_norm(states, states.shape[-1:])


@dataclass(frozen=True)
class StudentOutput:
    """The student's side of a batch: what its output layer turns into logits, and its inner states."""

    hidden_BTD: Tensor
    """Last hidden states; logits (B, T, V) where `weight_VD` is None."""
    weight_VD: Tensor | None
    bias_V: Tensor | None
    num_rows: int
    """V."""
    hidden_states: tuple[Tensor, ...] = ()
    """(B, T, D) after the embedding and after each layer, where a term asks for them."""
    attentions: tuple[Tensor, ...] = ()
    """(B, heads, T, T) of each layer, likewise."""
    embedding_VD: Tensor | None = None
    """The student's input embedding, for an aligner that attends over it."""


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher's body says of a batch."""

    states_BSD: Tensor
    """What `LiveTeacher.log_probs` takes rows of."""
    hidden_states: tuple[Tensor, ...] = ()
    """(B, S, D) after the embedding and after each layer, where asked for."""
    attentions: tuple[Tensor, ...] = ()
    """(B, heads, S, S) of each layer, where asked for."""


class Teacher:
    """What a batch can ask its teacher; one of a cache answers only what was kept.

    Legend: n or R rows of the teacher's states, U its vocabulary, E its width.
    """

    is_live = True
    """Whether it runs."""
    num_rows = 0
    """U, rows of its output layer; 0 where that never runs."""

    @property
    def embedding_UE(self) -> Tensor:
        """The input embedding (U, E)."""
        raise NotImplementedError

    def run(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        with_hidden_states: bool = False,
        with_attentions: bool = False,
    ) -> TeacherOutput:
        """Run the body on a batch."""
        raise NotImplementedError

    def start(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor,
        with_hidden_states: bool = False,
        with_attentions: bool = False,
    ) -> Callable[[], TeacherOutput]:
        """Begin `run` beside what the device does next and return what waits for its output."""
        raise NotImplementedError

    def is_finite(self, batch: Mapping[str, Tensor]) -> bool:
        """Return whether all that the teacher says of a batch is finite."""
        raise NotImplementedError

    def rows(self, states_RD: Tensor, temperature: float = 1.0) -> TeacherRows:
        """Return rows of `states` as an aligner reads them."""
        raise NotImplementedError

    def log_probs(self, states_nD: Tensor, temperature: float = 1.0) -> Tensor:
        """Return float32 log-probabilities (n, U) of rows of `states`."""
        raise NotImplementedError

    def token_log_probs(self, states_nD: Tensor, tokens_n: Tensor, temperature: float = 1.0) -> Tensor:
        """Return float32 (n,): the log-probability of one token a row."""
        raise NotImplementedError

    def token_and_set_log_probs(self, states_nD: Tensor, tokens_n: Tensor, member_U: Tensor) -> Tensor:
        """Return float32 (n, 2): the log-probability of one token a row, and that of a set, bool (U,)."""
        raise NotImplementedError


class Chunk:
    """The student's logits of a chunk of positions, with what several terms compute from them."""

    def __init__(self, logits_nV: Tensor, positions: slice, labels_n: Tensor) -> None:
        self.logits_nV = logits_nV
        self.positions = positions
        self.labels_n = labels_n
        self._log_probs: dict[float, Tensor] = {}

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """Return log-probabilities (n, V) at a temperature; made once."""
        if temperature not in self._log_probs:
            logits_nV = self.logits_nV if temperature == 1.0 else self.logits_nV / temperature
            self._log_probs[temperature] = logits_nV.log_softmax(-1)
        return self._log_probs[temperature]

    @functools.cached_property
    def cross_entropy_n(self) -> Tensor:
        """Cross-entropy on the text, float32 (n,)."""
        return -self.log_probs().gather(1, self.labels_n[:, None]).squeeze(1)


class BatchView:
    """A batch of `corpus.windows.WindowCollator` with both models' outputs.

    Args:
        batch: the collator's tensors.
        student: the student's output for it.
        teacher: runs the teacher; None for text alone.
        teacher_output: gives what the teacher's body says of the batch; see `LiveTeacher.start`.
    """

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        student: StudentOutput,
        teacher: Teacher | None,
        teacher_output: Callable[[], TeacherOutput] | None = None,
    ) -> None:
        self.batch = batch
        self.student = student
        self._teacher = teacher
        self._teacher_output = teacher_output
        self.used_BT = batch["shift_labels"] != IGNORED
        row_N = self.used_BT.flatten().nonzero().squeeze(1)
        self.labels_N = batch["shift_labels"].flatten()[row_N]
        # Not when first asked for: a term that looks at it without a graph would leave it without one.
        hidden_MD = student.hidden_BTD.flatten(0, 1)
        self.layer = OutputLayer(hidden_MD, student.weight_VD, student.bias_V, row_N)
        """The student's output layer over the used positions."""

    @property
    def window_N(self) -> Tensor:
        """Window of each used position."""
        return self.used_BT.nonzero()[:, 0]

    # ------------------------------------------------------------------------------------------- teacher

    @property
    def teacher(self) -> Teacher:
        """What runs the teacher, or answers from a cache the few questions that one can."""
        assert self._teacher is not None, "a term needs the teacher, and the objective has none"
        return self._teacher

    @functools.cached_property
    def teacher_output(self) -> TeacherOutput:
        """The teacher's states, and inner states where they are asked for."""
        if self._teacher_output is not None:
            return self._teacher_output()
        return self.teacher.run(self.batch["teacher_input_ids"], self.batch["teacher_attention_mask"])

    @functools.cached_property
    def teacher_states_MD(self) -> Tensor:
        """The teacher's states, all windows one after another: row i of window b is row b x S + i.

        Of a cache, two numbers a row; see `teachers.cache.teacher`.
        """
        if "cached_log_probs" in self.batch:
            return self.batch["cached_log_probs"].flatten(0, 1)
        return self.teacher_output.states_BSD.flatten(0, 1)

    @functools.cached_property
    def teacher_labels_M(self) -> Tensor:
        """The token that each of the teacher's rows predicts; `IGNORED` for padding."""
        return self.batch["teacher_labels"].flatten()

    def teacher_rows(self, position_BT: Tensor) -> Tensor:
        """Return the row, 0 to M, of each used position's place among its window's rows; -1 stays."""
        num_windows, num_rows = self.batch["teacher_labels"].shape
        first_B = torch.arange(num_windows, device=position_BT.device) * num_rows
        return torch.where(position_BT >= 0, position_BT + first_B[:, None], -1)[self.used_BT]

    # -------------------------------------------------------------------------------------------- groups

    @functools.cached_property
    def num_groups(self) -> int:
        """The most groups of any window."""
        return int(self.batch["group"].max().clamp_min(-1)) + 1

    def group_of(self, name: str) -> Tensor:
        """Return the group, 0 to G, of each entry of `batch[name]`, flattened; -1 where it has none."""
        group = self.batch[name]
        first_B = torch.arange(len(group), device=group.device) * self.num_groups
        return torch.where(group >= 0, group + first_B[:, None], -1).flatten()

    @functools.cached_property
    def group_N(self) -> Tensor:
        """Group of each used position; -1 where its group is not wholly used."""
        group_BT = self.group_of("group").view_as(self.used_BT)
        sizes_G = self.sum_by_group(group_BT.flatten(), torch.ones_like(group_BT.flatten()))
        used_G = self.sum_by_group(group_BT.flatten(), self.used_BT.flatten().long())
        whole_G = torch.cat([sizes_G == used_G, sizes_G.new_zeros(1, dtype=torch.bool)])
        group_N = group_BT[self.used_BT]
        return torch.where(whole_G[group_N], group_N, -1)  # the last entry answers for -1

    def sum_by_group(self, group: Tensor, values: Tensor) -> Tensor:
        """Return (G,): `values` summed over the entries of each group; entries with -1 are left out."""
        total = values.new_zeros(len(self.batch["group"]) * self.num_groups + 1)
        index = torch.where(group >= 0, group, len(total) - 1)
        return total.index_add(0, index, values)[:-1]


def stage_suffix(stage: int) -> str:
    """Return what the collator puts behind the names of a schedule's stage; nothing for the first."""
    return "" if stage == 0 else f"_{stage}"
