"""transformers' `Trainer` with the distillation objective inside the student's own forward pass.

The student stays an ordinary `PreTrainedModel`, so everything of the Trainer works as it is: accelerate, DDP,
mixed precision, gradient accumulation, checkpoints, resuming. Only its `forward` is replaced while it trains:
given a batch of windows it returns the objective's loss, and any other call goes to the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer

from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.evaluation.logits import LogitsReader
from distillation.objectives.distillation import STATISTICS, DistillationObjective, StudentOutput
from distillation.training.windows import LengthBatchedSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BEST_METRIC = "held_out/bits_per_byte"


@contextmanager
def distilling(student: PreTrainedModel, objective: DistillationObjective) -> Iterator[None]:
    """Let `student(**batch)` return (loss, statistics) of `objective` for batches of windows."""
    original = student.forward
    split = LogitsReader(student).is_split

    def forward(*args: Any, shift_labels: Tensor | None = None, **kwargs: Any) -> Any:
        if shift_labels is None:
            return original(*args, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        inputs = {"input_ids": kwargs["input_ids"], "attention_mask": kwargs["attention_mask"]}
        head = student.get_output_embeddings()
        if split:
            hidden = student.base_model(**inputs, use_cache=False).last_hidden_state
            output = StudentOutput(hidden, head.weight, getattr(head, "bias", None), head.weight.shape[0])
        else:
            logits = original(**inputs, use_cache=False).logits
            output = StudentOutput(logits, None, None, logits.shape[-1])
        loss, statistics = objective(output, {**kwargs, "shift_labels": shift_labels}, num_items)
        return {"loss": loss, "statistics": statistics}

    student.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del student.forward  # the instance's attribute; the class's method is back


class DistillationTrainer(Trainer):
    """Adds the objective's terms to the log and evaluates by held-out bits per byte.

    Args:
        held_out: texts on which the best checkpoint is chosen.
        evaluation: `max_length`, `stride`, `batch_size` of the bits-per-byte measure.
        lengths: student tokens of each training window, to batch windows of like length.
    """

    loss_is_scaled_for_ga = True  # the objective divides by the tokens of the whole accumulated batch

    def __init__(
        self,
        *args: Any,
        held_out: Sequence[str],
        evaluation: dict[str, Any],
        lengths: list[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.held_out = list(held_out)
        self.evaluation = evaluation
        self.lengths = lengths
        self.tokens_seen = 0
        self.sums = torch.zeros(len(STATISTICS))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See `Trainer.compute_loss`; the objective's statistics are kept for the next log line."""
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        self.sums = self.sums + outputs["statistics"].float().cpu()
        loss = outputs["loss"]
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # Tokens were counted over all processes, and DDP takes the mean of their gradients.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the terms of the loss, as means since the last line."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self.sums.to(self.args.device), reduction="sum").cpu()
            values = dict(zip(STATISTICS, sums.tolist(), strict=True))
            self.sums = torch.zeros_like(self.sums)
            self.tokens_seen += int(values["num_tokens"])
            tokens, targets = max(values["num_tokens"], 1), values["num_targets"]
            logs["cross_entropy"] = values["cross_entropy"] / tokens
            logs["num_tokens"] = values["num_tokens"]
            if targets:
                logs["divergence"] = values["divergence"] / targets
                logs["residual_mass"] = values["residual"] / targets
                logs["target_share"] = targets / tokens
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure held-out bits per byte and report it under the name that chooses the best checkpoint."""
        model = self.accelerator.unwrap_model(self.model)
        tokenizer = self.processing_class
        result = bits_per_byte(model, tokenizer, self.held_out, **self.evaluation)
        metrics = {f"eval_{BEST_METRIC}": result.bits_per_byte}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBatchedSampler:
        batch_size = self.args.train_batch_size * self.args.world_size
        return LengthBatchedSampler(self.lengths, batch_size, self.args.seed)
