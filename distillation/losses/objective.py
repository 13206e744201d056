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

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distillation.aligners.targets import ChunkTargets, TargetSource
from distillation.config import DIVERGENCES, ObjectiveSettings
from distillation.kernels.batch import BatchView, Chunk, StudentOutput, stage_suffix
from distillation.kernels.chunked import (
    ChunkGradients,
    OutputLayer,
    by_autograd,
    chunked_output_loss,
    chunks_at,
    even_chunks,
)
from distillation.kernels.closed_form import Losses, Weights, dense_losses, sparse_losses
from distillation.kernels.online_softmax import ChunkMemory
from distillation.losses.divergences import divergence
from distillation.losses.gold import GoldTerm
from distillation.losses.layers import attention_loss, hidden_loss
from distillation.losses.likelihood import LikelihoodTerm
from distillation.losses.uld import UldTerm
from distillation.models.decision import ChunkSizes, chunk_sizes_of
from distillation.teachers.cache.replay import CachedTargets
from distillation.teachers.cache.teacher import CachedTeacher

if TYPE_CHECKING:
    from distillation.aligners.base import Aligner
    from distillation.kernels.batch import Teacher, TeacherOutput

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
        teacher: Teacher | None = None,
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
        if self.teacher is None or not self.teacher.is_live or only == "cross_entropy":
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
            batch: as `corpus.windows.WindowCollator` makes it.
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
            num_teacher_rows = 0 if self.teacher is None else self.teacher.num_rows
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


class LogitTerms:
    """The terms that read logits, for one batch."""

    def __init__(
        self, objective: DistillationObjective, view: BatchView, weights: Mapping[str, float]
    ) -> None:
        self.objective, self.view, self.weights = objective, view, weights
        self._memory = ChunkMemory()
        self.divergences = [name for name in DIVERGENCES if name in weights]
        self.source = objective.target_source(view, self._memory) if self.divergences else None
        names = [name for name in ("likelihood", "uld", "gold") if name in weights]
        self.terms = {name: objective.term(name, view) for name in names}

    def loss(self) -> tuple[Tensor, Tensor]:
        """Return the weighted sum over all positions, and the statistics as `statistic_names` names them."""
        view = self.view
        layers = [view.layer]
        if self.source is not None and self.source.companion_layer is not None:
            layers.append(self.source.companion_layer)
        sizes = self.objective.chunk_sizes(view)
        size = sizes.closed_form if self._has_closed_form else sizes.autograd
        chunks = even_chunks(len(view.labels_N), size)
        if "gold" in self.terms:
            chunks = chunks_at(_ends_of_groups(view.group_N), size)
        gradients = self._closed_form if self._has_closed_form else by_autograd(self._loss_of_chunk)
        return chunked_output_loss(layers, gradients, chunks)

    @property
    def _has_closed_form(self) -> bool:
        """Whether the sum is cross-entropy and forward KL over one softmax."""
        if self.weights.keys() - {"cross_entropy", "forward_kl"}:
            return False
        if self.source is None:
            return True
        is_plain = self.source.companion_layer is None and self.source.aligner.student_support_V is None
        return is_plain and self.objective.settings.temperature == 1.0

    def _closed_form(self, layers: Sequence[OutputLayer], positions: slice) -> ChunkGradients:
        order_n = torch.arange(positions.start, positions.stop, device=self.view.labels_N.device)
        targets = None
        if self.source is not None:
            # Before the student's logits, so that teacher and student are not in memory together.
            targets = self.source.of_chunk(positions)
            order_n = targets.and_others(order_n)
        labels_n = self.view.labels_N[order_n]
        weights = Weights(self.weights.get("cross_entropy", 0.0), self.weights.get("forward_kl", 0.0))
        losses = _losses(layers[0].logits_by_row(order_n, self._memory.logits), labels_n, targets, weights)
        found = self._no_statistics(losses.cross_entropy_n)
        found["sum.cross_entropy"] = losses.cross_entropy_n.sum()
        num_targets = len(losses.divergence_m)
        if targets is not None:
            count = torch.full_like(found["residual"], num_targets)
            found["num_targets"] = found["count.forward_kl"] = count
            found["residual"], found["sum.forward_kl"] = targets.residual_m.sum(), losses.divergence_m.sum()
        text_n = weights.of_text(len(labels_n), num_targets, losses.cross_entropy_n)
        loss = text_n @ losses.cross_entropy_n + weights.kl * losses.divergence_m.sum()
        return ChunkGradients(loss, self._stacked(found), [losses.gradient_nV], order_n)

    def _no_statistics(self, like_n: Tensor) -> dict[str, Tensor]:
        """Return zeros for a chunk of positions, which are counted."""
        zero = like_n.new_zeros(())
        found = dict.fromkeys(self.objective.statistic_names, zero)
        found["num_tokens"] = found["count.cross_entropy"] = torch.full_like(zero, len(like_n))
        return found

    def _stacked(self, found: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([found[name].detach() for name in self.objective.statistic_names])

    def _loss_of_chunk(self, logits: tuple[Tensor, ...], positions: slice) -> tuple[Tensor, Tensor]:
        chunk = Chunk(logits[0], positions, self.view.labels_N[positions])
        cross_entropy = chunk.cross_entropy_n.sum()
        total = self.weights.get("cross_entropy", 0.0) * cross_entropy
        found = self._no_statistics(chunk.cross_entropy_n)
        found["sum.cross_entropy"] = cross_entropy
        if self.source is not None:
            total = total + self._divergences(chunk, logits[1:], found)
        for name, term in self.terms.items():
            value, count = term(chunk)
            total = total + self.weights[name] * value
            found |= {f"sum.{name}": value, f"count.{name}": count}
        return total, self._stacked(found)

    def _divergences(
        self, chunk: Chunk, companion_logits: tuple[Tensor, ...], found: dict[str, Tensor]
    ) -> Tensor:
        """Return the weighted divergences of a chunk, and note in `found` what they are."""
        assert self.source is not None
        settings = self.objective.settings
        targets = self.source.of_chunk(chunk.positions, *companion_logits)
        target_mV = targets.target_mV.contiguous()
        log_student_mV = targets.student(self._log_student(chunk, settings.temperature)[targets.index_m])
        count = torch.full_like(targets.companion_loss, len(targets.index_m))
        found["num_targets"], found["residual"] = count, targets.residual_m.sum()
        found["companion"] = targets.companion_loss
        total = targets.companion_loss
        for name in self.divergences:
            value = divergence(name, target_mV, log_student_mV, settings.skew).sum()
            total = total + self.weights[name] * settings.temperature**2 * value
            found |= {f"sum.{name}": value, f"count.{name}": count}
        has_no_target_n = torch.ones_like(chunk.cross_entropy_n).index_fill(0, targets.index_m, 0.0)
        fallback = sum(self.weights[name] for name in self.divergences)
        return total + fallback * (has_no_target_n * chunk.cross_entropy_n).sum()

    def _log_student(self, chunk: Chunk, temperature: float) -> Tensor:
        assert self.source is not None
        support_V = self.source.aligner.student_support_V
        if support_V is None:
            return chunk.log_probs(temperature)
        return (chunk.logits_nV.masked_fill(~support_V, -torch.inf) / temperature).log_softmax(-1)


def _losses(logits_Vn: Tensor, labels_n: Tensor, targets: ChunkTargets | None, weights: Weights) -> Losses:
    """Return the losses of a chunk in closed form; the positions with a target come first."""
    if targets is None:
        return dense_losses(logits_Vn, labels_n, None, Weights(weights.text + weights.kl, 0.0))
    target_Vm, columns = targets.target_mV.T, targets.columns
    if columns is None:
        return dense_losses(logits_Vn, labels_n, target_Vm, weights)
    num_entries = columns.id_mK.shape[1]
    entries = (columns.id_mK.T, target_Vm[:num_entries], columns.is_entry_mK.T)
    tail_m = target_Vm[num_entries] if columns.has_tail else None
    return sparse_losses(logits_Vn, labels_n, entries, tail_m, weights)


def _ends_of_groups(group_N: Tensor) -> list[int]:
    """Return where chunks may end: after the last position of each group."""
    if not len(group_N):
        return [0]
    ends = torch.ones_like(group_N, dtype=torch.bool)
    ends[:-1] = (group_N[1:] != group_N[:-1]) | (group_N[1:] < 0)
    return (ends.nonzero().squeeze(1) + 1).tolist()
