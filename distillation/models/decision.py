"""What a job or a teacher cache computes with, decided once, when it is prepared, and obeyed ever after.

Device, number formats, attention and chunk sizes shape the last bits of every figure. They follow from the
settings and from what this machine is, never from how fast or how full it is at the moment: the same machine
decides the same under any load. The decision stands in `job.json` and in a cache's `identity.json`, and is
part of both names, so nothing that was computed one way is ever mixed with what was computed another way.

On a processor a frozen model is in bf16 where oneDNN multiplies it by AMX tiles: there a product takes a
quarter of float32's time or less. Vectors alone (`avx512_bf16`) are twice as fast at best, and emulation is
many times slower: both stay in float32.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from distillation.errors import JobError
from distillation.models.device import (
    BFloat16By,
    choose_device,
    choose_dtype,
    choose_products,
    cuda_problem,
    free_memory,
    has_bfloat16,
    processor_bfloat16,
)
from distillation.models.memory_estimate import (
    AUTOGRAD_TENSORS,
    CLOSED_FORM_TENSORS,
    SORTED_TENSORS,
    chunk_positions,
)

if TYPE_CHECKING:
    from distillation.config import ModelReference, ModelSettings, ObjectiveSettings, Settings

logger = logging.getLogger(__name__)
Format = Literal["float32", "bfloat16", "float16"]
NOT_HASHED = frozenset({"threads", "machine", "why"})
"""Recorded and, where it can be, obeyed; another value of it does not make another job."""


class TeacherDecision(BaseModel):
    """How the teacher is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda", "mps"]
    teacher_dtype: Format
    """Number format of the teacher's weights."""
    teacher_attention: str
    """Attention implementation, as transformers calls it."""
    bfloat16_by: BFloat16By | None = None
    """What a processor multiplies bf16 with; None where it has none to multiply."""
    threads: int
    """Of a processor: sums that threads share out round differently by their number."""
    machine: str
    """The instructions that PyTorch uses on the processor, or the accelerator's name."""
    why: str
    """Why the teacher has its format."""

    @property
    def identity(self) -> dict[str, object]:
        """What is hashed: all that makes a result another one."""
        return self.model_dump(mode="json", exclude=set(NOT_HASHED))

    @property
    def summary(self) -> str:
        """One line for people."""
        return (
            f"{self.device}, teacher in {self.teacher_dtype} ({self.why}), attention {self.teacher_attention}"
        )

    def problem_here(self) -> str | None:
        """Return why this machine cannot compute what was decided, or None."""
        if self.device == "cuda":
            problem = cuda_problem()
            if problem is not None:
                return f"it was begun on a GPU, and here {problem}"
            if "bfloat16" in self._formats and not has_bfloat16("cuda"):
                return "it was begun in bfloat16, which the GPU here only emulates"
        elif self.device == "mps":
            import torch

            if not torch.backends.mps.is_available():
                return "it was begun on a Metal device, which this machine lacks"
        elif self.bfloat16_by is not None and self.bfloat16_by != processor_bfloat16():
            here = processor_bfloat16()
            return f"it was begun with bfloat16 by {self.bfloat16_by}, and here that is by {here}"
        return None

    def obey(self, what: str, remedy: str) -> None:
        """Make this process compute as decided.

        Args:
            what: names the job or the cache in a message.
            remedy: how to go on where that is impossible.

        Raises:
            JobError: this machine cannot do the same.
        """
        import torch

        problem = self.problem_here()
        if problem is not None:
            raise JobError(f"{what}: {problem}; resume it on a machine like the first, or {remedy}")
        machine = _machine(self.device)
        if machine != self.machine:
            logger.warning(
                "%s: begun on %s, going on on %s: the last bits may differ", what, self.machine, machine
            )
        # Several processes on a machine share its cores in their own way.
        if self.device == "cpu" and os.environ.get("WORLD_SIZE", "1") == "1":
            torch.set_num_threads(self.threads)

    @property
    def _formats(self) -> tuple[Format, ...]:
        return (self.teacher_dtype,)


class ChunkSizes(BaseModel):
    """Positions whose logits exist at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    closed_form: int
    """Of cross-entropy and forward KL."""
    autograd: int
    """Of all other sums, whose logits take more memory."""


class Decision(TeacherDecision):
    """How a student is trained."""

    student_attention: str
    student_products: Format
    """Number format of the student's matrix products, by autocast; its weights are in float32."""
    chunks: ChunkSizes

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{super().summary}; products of the student in {self.student_products}"

    @property
    def _formats(self) -> tuple[Format, ...]:
        return (self.teacher_dtype, self.student_products)


def decide_teacher(models: ModelSettings, *, needs_attention_maps: bool = False) -> TeacherDecision:
    """Return how the teacher of `models` is run on this machine.

    Raises:
        SettingsError: the device or the number format asked for is not to be had.
        ModelError: the teacher's configuration cannot be read.
    """
    reference = models.teacher
    device = choose_device(models.device)
    dtype = choose_dtype(reference.dtype, device, name="models.teacher.dtype")
    return TeacherDecision.model_validate(
        {
            "device": device,
            "teacher_dtype": dtype,
            "teacher_attention": "eager" if needs_attention_maps else attention_of(reference, "teacher"),
            "bfloat16_by": _bfloat16_by(device, dtype),
            "threads": _threads(),
            "machine": _machine(device),
            "why": _why(reference.dtype, device),
        }
    )


def decide(settings: Settings, objective: ObjectiveSettings | None = None) -> Decision:
    """Return how a student is trained under `settings` on this machine.

    Args:
        settings: of the run.
        objective: of the variant, where it is not the settings' own.

    Raises:
        SettingsError: the device or a number format asked for is not to be had.
        ModelError: a model's configuration cannot be read.
    """
    objective = objective or settings.objective
    needs_maps = objective.terms.attention > 0
    teacher = decide_teacher(settings.models, needs_attention_maps=needs_maps)
    products = choose_products(settings.training.autocast, teacher.device)
    values = {
        **teacher.model_dump(),
        "bfloat16_by": teacher.bfloat16_by or _bfloat16_by(teacher.device, products),
        "student_attention": "eager" if needs_maps else attention_of(settings.models.student, "student"),
        "student_products": products,
        "chunks": chunk_sizes(settings.models, objective, teacher.device),
    }
    return Decision.model_validate(values)


def chunk_sizes(models: ModelSettings, objective: ObjectiveSettings, device: str) -> ChunkSizes:
    """Return the chunk sizes of an objective: the setting's, or by the vocabularies and all of the memory."""
    from distillation.models.load import configured_output_rows

    num_teacher_rows = configured_output_rows(models.teacher, "teacher") if objective.uses_teacher else 0
    num_student_rows = configured_output_rows(models.student, "student")
    return chunk_sizes_of(objective, num_student_rows, num_teacher_rows, device)


def chunk_sizes_of(
    objective: ObjectiveSettings, num_student_rows: int, num_teacher_rows: int, device: str
) -> ChunkSizes:
    """Return the chunk sizes of an objective over output layers of so many rows."""
    if objective.chunk_size is not None:
        return ChunkSizes(closed_form=objective.chunk_size, autograd=objective.chunk_size)
    # Of all memory, not of what is free: that is another number every second.
    total = free_memory(device)[1]
    is_sorted = bool({"uld", "gold"} & objective.terms.active.keys())
    sorted_numbers = SORTED_TENSORS * num_teacher_rows if is_sorted else 0
    closed_form, autograd = (
        chunk_positions(num_tensors * num_student_rows + sorted_numbers, device, total)
        for num_tensors in (CLOSED_FORM_TENSORS, AUTOGRAD_TENSORS)
    )
    return ChunkSizes(closed_form=closed_form, autograd=autograd)


def attention_of(reference: ModelReference, role: Literal["teacher", "student"]) -> str:
    """Return the implementation that a model is loaded with where no loss reads its attention maps.

    `auto` is what transformers takes by itself for the architecture.

    Raises:
        ModelError: the configuration cannot be read.
    """
    from distillation.models.inspect.architecture import build_on_meta
    from distillation.models.load import read_config

    if reference.attention != "auto":
        return reference.attention
    trust = reference.trust_remote_code_of is not None
    model = build_on_meta(read_config(reference, role), trust_remote_code=trust)
    return str(model.config._attn_implementation)


def _bfloat16_by(device: str, dtype: str) -> str | None:
    return processor_bfloat16() if device == "cpu" and dtype == "bfloat16" else None


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _machine(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    if device == "mps":
        return "Metal"
    return f"a processor with {torch.backends.cpu.get_cpu_capability()}"


def _why(setting: str, device: str) -> str:
    if setting != "auto":
        return "as models.teacher.dtype says"
    if device != "cpu":
        return "what the accelerator computes natively"
    has = processor_bfloat16()
    return "oneDNN uses AMX tiles" if has == "amx" else f"bfloat16 by {has} is no gain"
