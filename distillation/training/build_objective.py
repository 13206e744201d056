"""The objective of a job, put together from its directory and both models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from distillation.aligners.base import Aligner
    from distillation.losses.objective import DistillationObjective
    from distillation.training.job import Job


def load_objective(
    directory: Path, job: Job, student: PreTrainedModel, tokenizers: tuple[Any, Any], device: str
) -> DistillationObjective:
    """Return the objective of `job`; the teacher is only loaded if a term needs it and no cache has it.

    Args:
        directory: of the job, for its aligner.
        job: settings and digests.
        student: on `device`.
        tokenizers: of teacher and student.
        device: where the teacher goes.

    Raises:
        ModelError: the teacher cannot be loaded, or a model cannot give what a term needs.
    """
    from distillation.aligners.build import load_aligner
    from distillation.losses.objective import DistillationObjective
    from distillation.models.load import load_model
    from distillation.teachers.cache.teacher import CachedTeacher
    from distillation.teachers.live import LiveTeacher

    settings = job.objective
    if not settings.uses_teacher:
        return DistillationObjective(settings, chunks=job.decision.chunks)
    aligner = load_aligner(directory / "aligner").to(device)
    tables = _tables(job, tokenizers, aligner, device)
    if job.cache is not None:
        return DistillationObjective(
            settings, aligner, CachedTeacher(job.cache), tables=tables, chunks=job.decision.chunks
        )
    reference = job.models.teacher
    needs_maps = settings.terms.attention > 0
    model = load_model(
        reference,
        "teacher",
        device=device,
        dtype=job.decision.teacher_dtype,
        attention=job.decision.teacher_attention,
    )
    if needs_maps:
        for role, one in (("teacher", model), ("student", student)):
            _check_maps(one, role)
    modules = _modules(job, aligner, model, student)
    return DistillationObjective(
        settings, aligner, LiveTeacher(model), modules=modules, tables=tables, chunks=job.decision.chunks
    )


def _check_maps(model: PreTrainedModel, role: str) -> None:
    """Refuse a model that silently returns no attention maps, as some implementations do."""
    from distillation.models.inspect.attention import attention_maps_problem

    problem = attention_maps_problem(model)
    if problem:
        raise ModelError(
            f"models.{role}: gives no complete attention maps ({problem}), and "
            "objective.terms.attention needs them; set that weight to 0"
        )


def _modules(job: Job, aligner: Aligner, teacher: PreTrainedModel, student: PreTrainedModel) -> Any:
    """Return what is trained beside the student: companions of aligners, projections of hidden states."""
    from torch import nn

    from distillation.aligners.trained_heads import build_companion
    from distillation.losses.layers import build_projections
    from distillation.models.lm_head import LogitsReader

    modules = nn.ModuleDict()
    for index, stage in enumerate(aligner.stages):
        if stage.companion is None:
            continue
        if not LogitsReader(student).is_split or not LogitsReader(teacher).is_split:
            raise ModelError(
                f"alignment.strategy = {stage.name!r}: needs models whose logits are a linear layer over "
                "their last states; use prefix"
            )
        modules[f"companion{index}"] = build_companion(
            stage.companion, teacher, student, aligner.num_student_rows, job.alignment.rank
        )
    if job.objective.terms.hidden > 0:
        modules["hidden"] = build_projections(teacher, student, job.objective.layers.num_layers)
    return modules


def _tables(job: Job, tokenizers: tuple[Any, Any], aligner: Aligner, device: str) -> dict[str, Tensor]:
    """Return the tensors, on `device`, of terms that need the tokenizers."""
    from distillation.losses.gold import matched_tokens
    from distillation.tokenizers.token_bytes import boundary_tokens, tokens_as_bytes

    tables = {}
    if job.objective.terms.gold > 0:
        tables["matched"] = matched_tokens(
            *tokenizers,
            num_teacher_rows=aligner.num_teacher_rows,
            num_student_rows=aligner.num_student_rows,
        )
    if job.objective.terms.likelihood > 0:
        rows = (aligner.num_teacher_rows, aligner.num_student_rows)
        for name, tokenizer, num_rows in zip(("boundary_U", "boundary_V"), tokenizers, rows, strict=True):
            tables[name] = boundary_tokens(tokens_as_bytes(tokenizer), num_rows)
    return {name: table.to(device) for name, table in tables.items()}
