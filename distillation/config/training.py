"""Settings of the training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from distillation.config.section import LocalPath, Section, Share


class TrainingSettings(Section):
    """The run: windows, optimiser, schedule, checkpoints."""

    num_epochs: PositiveFloat = 1.0
    """Passes over the training documents. Ignored when `max_steps` is set."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; None derives them from `num_epochs`."""
    batch_size: PositiveInt = 8
    """Windows a device and step."""
    gradient_accumulation_steps: PositiveInt = 1
    """Batches whose gradients are added before one optimiser step."""
    max_length: Annotated[int, Field(ge=16)] = 256
    """Longest window, in tokens of either tokenizer."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    on_nonfinite: Literal["stop"] | PositiveInt = "stop"
    """A step whose loss or gradient is not finite: `stop` ends the run; a number skips as many of them."""
    max_divergence: Annotated[float, Field(gt=1.0)] = 3.0
    """The run stops where held-out bits per byte are so many times the best so far, or those at the start."""
    least_targets: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """The run stops where a smaller part of the positions that the alignment foretold gets a target."""
    evaluations: PositiveInt = 4
    """How often, evenly spread, the held-out bits per byte are measured and a checkpoint is written."""
    gradient_checkpointing: bool = False
    """Recompute the student's activations in the backward pass: slower, much smaller."""
    autocast: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the student's matrix products; its weights stay in float32. `auto`: what an
    accelerator computes natively, float32 on a processor, where bfloat16 pays with AMX alone."""
    output_dir: LocalPath = "outputs/jobs"
    """Folder of the job directories."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept in a job directory besides the best one."""
    when_busy: Literal["leave", "wait"] = "leave"
    """What a second process does while another trains in the same job directory."""

    @property
    def most_skipped(self) -> int:
        """How many steps that are not finite may be skipped."""
        return 0 if self.on_nonfinite == "stop" else self.on_nonfinite
