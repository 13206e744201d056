"""What a training will need at its end, tried before its start: on a few tokens, with the real models.

A student that cannot be written, measured or let speak is found after hours otherwise. The first batch is
tried by the estimate of the run, the first evaluation by `DistillationTrainer.sample_bits`.

Invariant: weights, random numbers and the job's directory are as before.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.errors import DistillationError, ModelError, reason_of
from distillation.evaluation.samples import continue_prompts, greedy_token, write_greedily

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distillation.models.load import Role

logger = logging.getLogger(__name__)
NUM_TOKENS = 2
PROMPT = "The"


def make_savable(model: PreTrainedModel, name: str) -> None:
    """Take out of the model's generation settings what has no effect, and what transformers refuses to write.

    Args:
        model: its `generation_config` is changed.
        name: of the model, for the message.
    """
    config: Any = getattr(model, "generation_config", None)
    left_out = []
    while config is not None and (complaint := _complaint(config)) is not None:
        found = next((one for one in config.to_diff_dict() if _is_better(config, one, complaint)), None)
        if found is None:  # whoever writes it says so
            break
        setattr(config, found, None)
        left_out.append(found)
    if left_out:
        logger.warning(
            "%s: generation_config.json sets %s to no effect; the student's is written without",
            name,
            ", ".join(left_out),
        )


def try_saving(model: PreTrainedModel, tokenizer: Any, directory: Path, name: str) -> None:
    """Write all of a student but its weights, beside its place, and remove it again.

    Raises:
        ModelError: the libraries refuse.
    """
    with (
        _tried(name, "its configuration and tokenizer cannot be written"),
        tempfile.TemporaryDirectory(dir=directory, prefix=".trial.") as folder,
    ):
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def try_speaking(model: PreTrainedModel, tokenizer: Any, name: str) -> None:
    """Let a model write a few tokens in each way in which it will be measured.

    Raises:
        ModelError: it cannot.
    """
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with _tried(name, "it cannot write text, which its evaluation needs"), torch.random.fork_rng(devices):
        continue_prompts(model, tokenizer, [PROMPT], num_new_tokens=NUM_TOKENS)
        ids = torch.ones(1, NUM_TOKENS, dtype=torch.long, device=model.device)
        with torch.inference_mode():
            greedy_token(model, ids)
            write_greedily(model, ids, NUM_TOKENS)


@contextmanager
def _tried(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except (DistillationError, OSError):  # a disk is no fault of the model
        raise
    except Exception as error:  # whatever the library or the code of the model raises
        kind = type(error).__name__
        raise ModelError(f"{name}: {what} ({kind}: {reason_of(error)}); take another model") from error


def _complaint(config: Any) -> str | None:
    """Return why transformers would not write these generation settings; None where it would."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return str(error)
    return None


def _is_better(config: Any, name: str, complaint: str) -> bool:
    without = copy.deepcopy(config)
    setattr(without, name, None)
    return len(_complaint(without) or "") < len(complaint)


def name_of(path: str, role: Role) -> str:
    """Return what messages call a model."""
    return f"models.{role}.path = {path}"
