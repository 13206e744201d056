"""The interface of vocabulary aligners: a teacher's distribution becomes a target over the student's
vocabulary.

Legend, at the end of names: N used positions, U teacher vocabulary (output rows), V student vocabulary,
B windows, T positions of a window.

An aligner is built once from two tokenizers and is then nothing but tables: `align` says which row of the
teacher's logits each student position learns from, `targets` turns those rows into distributions over V.

Invariants: rows of `Targets.probabilities_NV` are non-negative and sum to 1; `residual_N` plus the mass
that was written is the mass that came in; an aligner that is saved and loaded gives the same targets to
the bit.
"""

# ruff: noqa: N815 - the shape suffixes of design section 2 stand in field names too.
from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from distillation.files import write_atomically
from distillation.tokenizers.pairs import EncodedPair
from distillation.tokenizers.spans import Alignment, align_spans

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distillation.kernels.online_softmax import ChunkMemory, TeacherRows

SETTINGS_FILE = "aligner.json"
TABLES_FILE = "aligner.safetensors"
FORMAT = 2
ROW_ENTRIES = 1 << 24
"""Entries of whole rows of the teacher that are in memory at a time: 64 MiB a float32 tensor."""
LEAST_WRITTEN_MASS = 1e-6
"""A row of which the student can write less says nothing about the student's next token."""

AlignerType = TypeVar("AlignerType", bound="Aligner")


@dataclass(frozen=True)
class Rows:
    """What is known about N used positions besides the teacher's log-probabilities; torch tensors."""

    teacher_token_N: Tensor
    """int64: the teacher's token at the conditioning position, the one its logits row predicts."""
    student_token_N: Tensor
    """int64: the student's token at the position, the one its logits row predicts."""
    num_emitted_N: Tensor
    """int: `Alignment.num_emitted_BT` of the position."""
    num_tail_N: Tensor
    """int: `Alignment.num_tail_BT` of the position."""
    tail_log_prob_N: Tensor
    """float32: sum of the teacher's log-probabilities of the tail's tokens; 0 without a tail."""

    def __len__(self) -> int:
        return int(self.teacher_token_N.shape[0])

    def __getitem__(self, index: Tensor | slice) -> Rows:
        """Return the same facts about some of the positions."""
        return Rows(**{name: value[index] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Targets:
    """Distributions over the student's vocabulary."""

    probabilities_NV: Tensor
    """float32; each row sums to 1. A row that is not usable has it all on the student's token. In memory it
    may lie the other way round, (V, N)."""
    residual_N: Tensor
    """float32: share of the teacher's mass that no student token could carry, before renormalising."""
    usable_N: Tensor
    """bool: False where next to no mass could be written; such rows must not enter a loss."""


class Aligner(ABC):
    """Turns the teacher's next-token distribution into a target over the student's vocabulary.

    Args:
        num_teacher_rows: U, output rows of the teacher; may be more than its tokenizer has tokens.
        num_student_rows: V, output rows of the student.
        tables: tensors that the rule needs.
        details: JSON-able facts about the tables, for the audit and the record.
    """

    name: ClassVar[str]
    reads_log_probs: ClassVar[bool] = True
    """Whether targets are made from the teacher's log-probabilities; if not, its output layer never runs."""
    companion: ClassVar[str | None] = None
    """Kind of the modules that are trained beside the student and finish the targets, if there are any."""

    def __init__(
        self,
        num_teacher_rows: int,
        num_student_rows: int,
        tables: Mapping[str, Tensor],
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_teacher_rows = num_teacher_rows
        self.num_student_rows = num_student_rows
        self.tables = dict(tables)
        self.details = dict(details or {})

    @property
    def student_support_V(self) -> Tensor | None:  # noqa: N802 - a tensor, named like one
        """bool (V,): when set, the student too is restricted to these columns and renormalised."""
        return self.tables.get("student_support")

    def align(self, pairs: Sequence[EncodedPair]) -> Alignment:
        """Return which teacher row each student position of `pairs` learns from, (B, T)."""
        return align_spans(pairs)

    @property
    def stages(self) -> tuple[Aligner, ...]:
        """The aligners of a schedule in order; of any other just itself."""
        return (self,)

    def stage_at(self, progress: float) -> tuple[int, Aligner]:
        """Return (index, aligner) of the stage at `progress`, the share of the training that is done."""
        return 0, self

    @abstractmethod
    def targets(self, teacher_log_probs_NU: Tensor, rows: Rows) -> Targets:
        """Return the targets of N positions; nothing here takes part in a gradient.

        Args:
            teacher_log_probs_NU: log-softmax of the teacher's rows.
            rows: facts about the same positions.
        """

    def targets_of(
        self, teacher: TeacherRows, row_N: Tensor, rows: Rows, memory: ChunkMemory | None = None
    ) -> Targets:
        """Return the targets of N positions from the teacher's rows, each of which is computed once.

        An aligner that adds columns up reads them tile by tile; any other gets few whole rows at a time.

        Args:
            teacher: R rows.
            row_N: int64: which of them each position learns from.
            rows: facts about the same positions.
            memory: where targets may lie; they are gone when it is used again. Its logits are overwritten.
        """
        import torch

        size = max(1, ROW_ENTRIES // teacher.num_columns)
        parts = [
            self.targets(teacher.log_probs(row_N[begin : begin + size]), rows[begin : begin + size])
            for begin in range(0, max(len(rows), 1), size)
        ]
        if len(parts) == 1:
            return parts[0]
        return Targets(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))

    def to(self: AlignerType, device: torch.device | str) -> AlignerType:
        """Return this aligner with its tables on `device`; itself is left alone."""
        moved = copy.copy(self)
        moved.tables = {name: table.to(device) for name, table in self.tables.items()}
        return moved

    def save(self, directory: str | Path) -> None:
        """Write the aligner into `directory` (safetensors and JSON), which is made if need be."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        content, settings = self._serialise()
        write_atomically(folder / TABLES_FILE, content)
        # The settings come last: a directory that has them is complete.
        write_atomically(
            folder / SETTINGS_FILE, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
        )

    def content_digest(self) -> str:
        """Return the hash of all that `save` writes, without writing it."""
        seals = [stage._serialise()[1]["sha256"] for stage in self.stages]
        return hashlib.sha256(
            json.dumps([self.name, self.details, seals], sort_keys=True).encode()
        ).hexdigest()

    def _serialise(self) -> tuple[bytes, dict[str, Any]]:
        """Return the tables as safetensors, and the settings with the seals of both."""
        from safetensors.torch import save

        content = save({name: table.cpu().contiguous() for name, table in self.tables.items()})
        settings = {
            "format": FORMAT,
            "name": self.name,
            "num_teacher_rows": self.num_teacher_rows,
            "num_student_rows": self.num_student_rows,
            "tables_sha256": hashlib.sha256(content).hexdigest(),
            "details": self.details,
        }
        return content, settings | {"sha256": seal_of(settings)}


def seal_of(settings: Mapping[str, Any]) -> str:
    """Return the hash of the settings of a saved aligner, their own seal apart."""
    unsealed = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True).encode()).hexdigest()


def finish(
    written_NV: Tensor, residual_N: Tensor, student_token_N: Tensor, unit_N: Tensor | float = 1.0
) -> Targets:
    """Renormalise the mass that was written, in place: `written_NV` must be the caller's own buffer.

    Args:
        written_NV: mass, in units of `unit_N`.
        residual_N: mass that could not be written, in the same units.
        student_token_N: the text's own tokens.
        unit_N: what all of a row's mass adds up to.
    """
    mass_N = written_NV.sum(dim=1)
    # A second (N, V) tensor would double what a chunk of positions needs.
    probabilities_NV = written_NV.div_((mass_N / unit_N).clamp_min(LEAST_WRITTEN_MASS).mul(unit_N)[:, None])
    return with_fallback(probabilities_NV, mass_N / unit_N, residual_N / unit_N, student_token_N)


def with_fallback(
    probabilities_NV: Tensor, mass_N: Tensor, residual_N: Tensor, student_token_N: Tensor
) -> Targets:
    """Mark rows with next to no mass and, in place, give them the text's own token as target."""
    import torch

    # A mass that is no number stays, and makes the loss one: a teacher that fails is never "no target".
    usable_N = ~(mass_N < LEAST_WRITTEN_MASS)
    lost = (~usable_N).nonzero().squeeze(1)
    if len(lost):
        probabilities_NV[lost] = 0.0
        probabilities_NV[lost, student_token_N[lost].long()] = 1.0
    return Targets(probabilities_NV, torch.clamp(residual_N, 0.0, 1.0), usable_N)
