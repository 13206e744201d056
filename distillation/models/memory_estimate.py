"""How much memory a training step needs, before anything is loaded.

total = student (weights + gradients + AdamW's two moments) + its activations + teacher (weights + one
layer's activations) + one chunk of logits

Per layer and token a decoder keeps for the backward pass about 6 D + 3 H d + 4 K d + 4 F numbers (D width,
H heads and K key heads of width d, F feed-forward width): two norms with their inputs, queries, keys and
values before and after rotation, attention's output, and the four tensors of a gated feed-forward part.
With gradient checkpointing only the layer's input, D, is kept, and one layer at a time is whole. Attention
is taken to be memory-efficient; eager attention keeps 2 H T more numbers a token. (After Korthikanti et
al., 2022.) It is an estimate, meant to tell 2 GB from 20 GB: tests hold its exact terms, and activations to
a factor of two of what autograd really keeps.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from distillation.kernels.online_softmax import tile_elements
from distillation.models.inspect.architecture import ArchitectureProbe

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}
CHUNK_BYTES = {"cpu": 192 * 2**20, "cuda": 2**30}
"""What the logits of a chunk may take, by kind of device. More gains no speed on a processor."""
LEAST_POSITIONS = 256
"""Of a chunk, whatever they take, if there is memory: products of 128 are up to 1.7 times as slow."""
MEMORY_SHARE = 8
"""A chunk takes at most this part of the device's memory."""
CLOSED_FORM_TENSORS, AUTOGRAD_TENSORS = 4, 8
"""Float32 tensors (positions, student vocabulary) that a chunk counts with: target, logits and what moves
between them; with autograd also probabilities and gradients."""
SORTED_TENSORS = 4
"""The same over the teacher's vocabulary, for terms that sort whole rows of it."""


class MemoryEstimate(BaseModel):
    """Bytes that one training step needs, by cause, against what is free."""

    model_config = ConfigDict(frozen=True)

    student_weights: int
    gradients: int
    optimizer: int
    activations: int
    teacher_weights: int
    teacher_activations: int
    logits: int
    """The chunk of positions whose target and logits exist at a time, with a tile of the teacher's, and the
    output layer's gradient."""
    free: int

    @property
    def total(self) -> int:
        """Sum of all causes, in bytes."""
        parts = self.model_dump()
        return sum(value for name, value in parts.items() if name != "free")

    @property
    def fits(self) -> bool:
        """Whether the sum is less than what is free."""
        return self.total < self.free

    def largest(self) -> str:
        """Return the name of the largest cause."""
        parts = {name: value for name, value in self.model_dump().items() if name != "free"}
        return max(parts, key=lambda name: parts[name])


def chunk_positions(num_numbers: int, device: str, memory: int) -> int:
    """Return how many positions of `num_numbers` float32 numbers each make a chunk, a multiple of 32.

    Args:
        num_numbers: that exist for a position at a time.
        device: kind of device.
        memory: of the device, in bytes; all of it, as what is free changes from second to second.
    """
    wanted = max(CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"]), 4 * num_numbers * LEAST_POSITIONS)
    budget = min(wanted, memory // MEMORY_SHARE)
    return max(32, budget // (4 * num_numbers) // 32 * 32)


def estimate_memory(
    teacher: ArchitectureProbe | None,
    student: ArchitectureProbe,
    *,
    free: int,
    memory: int | None = None,
    teacher_dtype: str = "float32",
    student_dtype: str = "float32",
    batch_size: int,
    max_length: int,
    chunk_size: int | None = None,
    device: str = "cpu",
    gradient_checkpointing: bool = False,
) -> MemoryEstimate:
    """Return the memory of one training step of `student` under `teacher` (None: training on text alone).

    `free` and `memory` are bytes: what is free, and all that the device has (None: what is free).
    `batch_size` is in windows, `max_length` in tokens, `chunk_size` in positions (None: as many as training
    would choose).
    """
    size = BYTES_PER_NUMBER[student_dtype]
    tokens = batch_size * max_length
    numbers = CLOSED_FORM_TENSORS * student.num_output_rows
    chunk = min(chunk_size or chunk_positions(numbers, device, free if memory is None else memory), tokens)
    per_layer = _numbers_per_token(student)
    kept = student.num_layers * (student.width if gradient_checkpointing else per_layer)
    whole = per_layer if gradient_checkpointing else 0
    teacher_size = BYTES_PER_NUMBER[teacher_dtype]
    # The gradient of the output weights adds up in float32, beside the one that the optimiser reads.
    logits = 4 * (chunk * numbers + student.num_output_rows * student.width)
    if teacher:
        tile = min(chunk * teacher.num_output_rows, tile_elements(device))
        logits += tile * (4 if teacher_dtype == "float32" else 4 + teacher_size)  # turned into float32
    return MemoryEstimate(
        student_weights=student.num_parameters * size,
        gradients=student.num_parameters * size,
        optimizer=2 * student.num_parameters * size,
        activations=tokens * (kept + whole + 2 * student.width) * size,
        teacher_weights=teacher.num_parameters * teacher_size if teacher else 0,
        teacher_activations=tokens * (_numbers_per_token(teacher) + 2 * teacher.width) * teacher_size
        if teacher
        else 0,
        logits=logits,
        free=free,
    )


def _numbers_per_token(model: ArchitectureProbe) -> int:
    attention = model.head_width * (3 * model.num_heads + 4 * model.num_key_value_heads)
    return 6 * model.width + attention + 4 * model.intermediate_size


def readable_bytes(num_bytes: int) -> str:
    """Return `num_bytes` in a unit a person reads, for example `1.5 GB`."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
