"""The distillation objective: what one batch costs the student.

Legend, at the end of names: B windows, T student positions, N used positions, n positions of a chunk, m of
them with a target, D width, U teacher vocabulary, V student vocabulary.

It is a weighted sum of terms over positions, divided by the number of student tokens:

    cross_entropy                        on the text, at every position
    forward_kl, reverse_kl, ...          T^2 x divergence(target || student at temperature T) over the
                                         aligner's target; a position without one costs its cross-entropy
    likelihood, uld, gold                one file each
    hidden, attention                    `layers`: inner states, pooled over groups

Every position weighs the same. Padding never enters: only used positions reach an output layer.

Invariants: equal tokenizers make this plain knowledge distillation; cross_entropy alone is plain language
modelling; the sum of the terms one by one is the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distillation.aligners.targets import TargetSource
from distillation.config import DIVERGENCES, ObjectiveSettings
from distillation.kernels.batch import BatchView, StudentOutput, stage_suffix
from distillation.losses.gold import GoldTerm
from distillation.losses.layers import attention_loss, hidden_loss
from distillation.losses.likelihood import LikelihoodTerm
from distillation.losses.logit_terms import LogitTerms
from distillation.losses.uld import UldTerm
from distillation.models.decision import ChunkSizes, chunk_sizes_of
from distillation.teachers.cache.replay import CachedTargets
from distillation.teachers.cache.teacher import CachedTeacher

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.kernels.batch import TeacherOutput
    from distillation.kernels.online_softmax import ChunkMemory
    from distillation.teachers.live import LiveTeacher

FIXED_STATISTICS = ("num_tokens", "num_targets", "residual", "companion")


class DistillationObjective:
    """Computes the loss of a batch; see the module's docstring.

    Args:
        settings: the terms and their settings.
        aligner: turns the teacher's rows into targets; None for text alone.
        teacher: runs the teacher, or stands for a cache of it; None for text alone.
        modules: what is trained beside the student: `companion0`, ... by stage of the schedule, `hidden`.
        tables: tensors of terms that need the tokenizers: `matched`, `boundary_U`, `boundary_V`.
        chunks: as decided for a job; None decides by the first batch.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        aligner: Aligner | None = None,
        teacher: LiveTeacher | CachedTeacher | None = None,
        *,
        modules: nn.ModuleDict | None = None,
        tables: Mapping[str, Tensor] | None = None,
        chunks: ChunkSizes | None = None,
    ) -> None:
        if settings.uses_teacher and teacher is None:
            raise ValueError(f"objective.terms = {settings.terms.description}: needs a teacher")
        if settings.terms.active.keys() & set(DIVERGENCES) and aligner is None:
            raise ValueError(f"objective.terms = {settings.terms.description}: needs an aligner")
        self.settings = settings
        self.aligner = aligner
        self.teacher = teacher
        self.modules = nn.ModuleDict() if modules is None else modules
        self.tables = dict(tables or {})
        self.chunks = chunks
        self.progress = 0.0
        """Share of the training that is done: decides the stage of a schedule."""
        # The cross-entropy is always measured, whatever its weight.
        measured = dict.fromkeys(("cross_entropy", *settings.terms.active))
        kinds = [f"{kind}.{name}" for name in measured for kind in ("sum", "count")]
        self.statistic_names = (*FIXED_STATISTICS, *kinds)

    @property
    def needs_hidden_states(self) -> bool:
        """Whether both models must return the states of all layers."""
        return self.settings.terms.hidden > 0

    @property
    def needs_attentions(self) -> bool:
        """Whether both models must return attention maps."""
        return self.settings.terms.attention > 0

    def start_teacher(
        self, batch: Mapping[str, Tensor], only: str | None = None
    ) -> Callable[[], TeacherOutput] | None:
        """Let a live teacher read `batch` beside what the device does next, if a term wants to know it.

        Returns:
            What `__call__` takes as `teacher_output`.
        """
        if self.teacher is None or isinstance(self.teacher, CachedTeacher) or only == "cross_entropy":
            return None
        layers = (self.needs_hidden_states, self.needs_attentions)
        return self.teacher.start(batch["teacher_input_ids"], batch["teacher_attention_mask"], *layers)

    def __call__(
        self,
        student: StudentOutput,
        batch: Mapping[str, Tensor],
        num_items: Tensor | int | None = None,
        only: str | None = None,
        teacher_output: Callable[[], TeacherOutput] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (loss, statistics).

        Args:
            student: output of the student for `batch`.
            batch: as `training.windows.WindowCollator` makes it.
            num_items: student tokens to divide by; those of this batch if None.
            only: leave all terms out but this one, to measure it.
            teacher_output: of `start_teacher`, if that was called for the batch.

        Returns:
            The loss, a scalar, and float32: sums over the batch as `statistic_names` names them.
        """
        active = self.settings.terms.active
        weights = active if only is None else {only: active[only]}
        view = BatchView(batch, student, self.teacher, teacher_output or self.start_teacher(batch, only))
        loss, statistics = LogitTerms(self, view, weights).loss()
        found = dict(zip(self.statistic_names, statistics, strict=True))
        for name in ("hidden", "attention"):
            if name in weights:
                value, count = self._layer_term(name, view)
                loss = loss + weights[name] * value
                found |= {f"sum.{name}": value.detach(), f"count.{name}": count}
        num_tokens = view.labels_N.numel() if num_items is None else num_items
        return loss / num_tokens, torch.stack([found[name].float() for name in self.statistic_names])

    def chunk_sizes(self, view: BatchView) -> ChunkSizes:
        """Return at how many positions logits exist at a time, if need be by the vocabularies of `view`."""
        if self.chunks is None:
            num_teacher_rows = 0 if self.teacher is None else getattr(self.teacher, "num_rows", 0)
            device = view.labels_N.device.type
            self.chunks = chunk_sizes_of(self.settings, view.student.num_rows, num_teacher_rows, device)
        return self.chunks

    def term(self, name: str, view: BatchView) -> LikelihoodTerm | UldTerm | GoldTerm:
        """Return one of the terms `likelihood`, `uld`, `gold` for a batch."""
        settings, tables = self.settings, self.tables
        if name == "uld":
            return UldTerm(view, settings.temperature)
        if name == "gold":
            return GoldTerm(view, tables["matched"], settings.gold.beta, settings.temperature)
        boundaries = (tables["boundary_U"], tables["boundary_V"])
        return LikelihoodTerm(view, settings.likelihood, boundaries, self.chunk_sizes(view).autograd)

    def target_source(
        self, view: BatchView, memory: ChunkMemory | None = None
    ) -> TargetSource | CachedTargets:
        """Return the targets of a batch, by the aligner of the current stage or from the cache.

        `memory` is what chunks are computed in, if more than the targets are.
        """
        assert self.aligner is not None
        if isinstance(self.teacher, CachedTeacher):
            names = self.settings.terms.active.keys() & set(DIVERGENCES)
            return CachedTargets(view, self.aligner, self.teacher.settings, names == {"forward_kl"})
        stage, aligner = self.aligner.stage_at(self.progress)
        name = f"companion{stage}"
        return TargetSource(
            view,
            aligner,
            self.settings.temperature,
            suffix=stage_suffix(stage),
            companion=self.modules[name] if name in self.modules else None,  # type: ignore[arg-type] # noqa: SIM401
            memory=memory,
        )

    def _layer_term(self, name: str, view: BatchView) -> tuple[Tensor, Tensor]:
        num_layers = self.settings.layers.num_layers
        if name == "hidden":
            return hidden_loss(view, self.modules["hidden"], num_layers)  # type: ignore[arg-type]
        return attention_loss(view, num_layers)
