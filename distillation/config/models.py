"""Settings of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from distillation.config.section import LocalPath, Section


class ModelReference(Section):
    """One causal language model with its tokenizer."""

    path: LocalPath = "sample"
    """Directory or hub repository; `sample` is the embedded model of this role."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Not used for directories."""
    trust_remote_code_of: str | None = None
    """`repository@revision`: code of a repository runs only if this names exactly this path and revision."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights in memory; `auto`: what the device computes natively for a frozen model
    (bfloat16 on a processor with AMX, else float32). A student's weights are float32, in training and
    measured; `training.autocast` makes its products faster."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation, in training and measured; `auto` takes what transformers does for the
    architecture (sdpa for most), and eager in training where the objective reads attention maps."""

    @model_validator(mode="after")
    def _remote_code_is_named_exactly(self) -> ModelReference:
        if self.trust_remote_code_of is not None:
            if self.revision is None:
                raise ValueError("trust_remote_code_of needs revision to be a commit; set revision")
            if self.trust_remote_code_of != f"{self.path}@{self.revision}":
                raise ValueError(f"trust_remote_code_of must be exactly {self.path}@{self.revision}")
        return self

    def trained(self, directory: str | Path) -> ModelReference:
        """Return the reference of what training has made of this model, loaded with the same attention."""
        return ModelReference(path=str(directory), attention=self.attention)


class ModelSettings(Section):
    """The pair."""

    teacher: ModelReference = ModelReference()
    """The model that is learned from."""
    student: ModelReference = ModelReference()
    """The model that learns; it keeps its own tokenizer."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where both run; `auto` takes an accelerator whose kernels work, else the processor."""
