"""transformers' `Trainer` with the distillation objective inside the student's own forward pass.

The student stays an ordinary `PreTrainedModel`, so everything of the Trainer works as it is: accelerate, DDP,
mixed precision, gradient accumulation, checkpoints, resuming. Only its `forward` is replaced while it trains:
given a batch of windows it returns the objective's loss, and any other call goes to the original.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer

from distillation.corpus.windows import LengthBatchedSampler
from distillation.errors import JobError
from distillation.evaluation.bits_per_byte import bits_per_byte
from distillation.kernels.batch import IGNORED, StudentOutput, stage_suffix
from distillation.losses.objective import DistillationObjective
from distillation.models.lm_head import LogitsReader
from distillation.training import nonfinite
from distillation.training.checkpoints import (
    COMPANIONS,
    TRAINER_STATE,
    Checkpoint,
    counts_file,
    draft_folder,
    drop_old,
    seal,
)
from distillation.training.gradient_shares import gradient_shares

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distillation.aligners.base import Aligner

logger = logging.getLogger(__name__)
BEST_METRIC = "held_out/bits_per_byte"
FORETOLD = "foretold"
"""Beside the statistics of the objective: positions that the alignment gives a row of the teacher."""
ALOUD = 0.9
"""Of the targets that were foretold: fewer are told."""
SAMPLE_TEXTS, SAMPLE_CHARACTERS = 4, 1000
"""Held-out text on which the student is compared with itself before the training."""


@contextmanager
def distilling(student: PreTrainedModel, objective: DistillationObjective) -> Iterator[None]:
    """Let `student(**batch)` return (loss, statistics) of `objective` for batches of windows.

    What the objective trains beside the student is a submodule of it meanwhile, so that the optimiser,
    checkpoints and several processes know it, and is gone afterwards.
    """
    original = student.forward
    reader = LogitsReader(student)
    reader.whole = original  # which the student's own call would no longer reach

    def forward(*args: Any, shift_labels: Tensor | None = None, **kwargs: Any) -> Any:
        if shift_labels is None:
            return original(*args, **kwargs)
        num_items, only = kwargs.pop("num_items_in_batch", None), kwargs.pop("only", None)
        batch = {**kwargs, "shift_labels": shift_labels}
        teacher_output = objective.start_teacher(batch, only)
        output = _student_output(reader, objective, batch)
        loss, statistics = objective(output, batch, num_items, only, teacher_output)
        return {"loss": loss, "statistics": statistics}

    if len(objective.modules):
        setattr(student, COMPANIONS, objective.modules.to(student.device))
    student.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del student.forward  # the instance's attribute; the class's method is back
        if len(objective.modules):
            delattr(student, COMPANIONS)


def _student_output(
    reader: LogitsReader, objective: DistillationObjective, batch: dict[str, Any]
) -> StudentOutput:
    """Run the student's body on a batch; its whole forward pass where that alone gives its logits."""
    student = reader.model
    outputs = reader.run(
        batch["input_ids"],
        reader.attention_mask(batch["attention_mask"]),
        output_hidden_states=objective.needs_hidden_states,
        output_attentions=objective.needs_attentions,
    )
    # Not every output has both fields: a model without attention has no maps to return.
    inner = (tuple(outputs.get("hidden_states") or ()), tuple(outputs.get("attentions") or ()))
    embedding: Any = student.get_input_embeddings().weight
    states = reader.states_of(outputs)
    if not reader.is_split:
        return StudentOutput(states, None, None, states.shape[-1], *inner, embedding)
    weight, bias = reader.head.weight, getattr(reader.head, "bias", None)
    return StudentOutput(states, weight, bias, reader.num_rows, *inner, embedding)


class DistillationTrainer(Trainer):
    """Adds the objective's terms to the log and evaluates by held-out bits per byte.

    Args:
        objective: of the student's patched forward pass.
        companion_learning_rate: peak learning rate of what is trained beside the student.
        held_out: texts on which the best checkpoint is chosen.
        evaluation: `max_length`, `stride`, `batch_size` of the bits-per-byte measure.
        lengths: student tokens of each training window, to batch windows of like length.
        window_counts: what became of the documents, by name.
        keep_checkpoints: checkpoints that are kept besides the best one.
        nonfinite_folder: where the batches of steps that are not finite are kept.
        most_skipped: how many such steps are passed over before the run stops.
        max_divergence: how many times the best held-out bits per byte so far, and those before the training,
            a later one may be.
        origins: names of the training documents.
        least_targets: which part of the positions that the alignment gives a row of the teacher must get a
            target of it; None does not ask.
    """

    objective: DistillationObjective
    loss_is_scaled_for_ga = True  # the objective divides by the tokens of the whole accumulated batch

    def __init__(
        self,
        *args: Any,
        objective: DistillationObjective,
        companion_learning_rate: float,
        held_out: Sequence[str],
        evaluation: dict[str, Any],
        lengths: list[int],
        window_counts: dict[str, float],
        keep_checkpoints: int,
        nonfinite_folder: Path,
        most_skipped: int,
        max_divergence: float,
        origins: Sequence[str],
        least_targets: float | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.nonfinite_folder = nonfinite_folder
        self.most_skipped = most_skipped
        self.max_divergence = max_divergence
        self.origins = origins
        self.least_targets = least_targets
        self.num_skipped = 0
        self.start_bits: float | None = None
        self._loss_before: tuple[float, int] | None = None
        self._step_batches: list[Mapping[str, Tensor]] = []
        self._before_step: tuple[Tensor, Tensor] | None = None
        self.objective = objective
        self.companion_learning_rate = companion_learning_rate
        self.held_out = list(held_out)
        self.evaluation = evaluation
        self.lengths = lengths
        self.window_counts = window_counts
        self.keep_checkpoints = keep_checkpoints
        self.started, self.seconds_before = time.time(), 0.0
        self.tokens_seen = self.targets_seen = self.targets_foretold = 0
        self.measured_at = -1
        self.sum_names = (*objective.statistic_names, FORETOLD)
        self.sums = torch.zeros(len(self.sum_names))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See `Trainer.compute_loss`; the objective's statistics are kept for the next log line."""
        self.objective.progress = self.state.global_step / max(self.state.max_steps, 1)
        self._measure_gradient_shares(inputs)
        if not self._step_batches:
            self._before_step = (self.sums.clone(), self._tr_loss.clone())
        self._step_batches.append(inputs)
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        # Summed where they are: a copy to the processor would wait for the accelerator at each step.
        statistics = outputs["statistics"].float()
        statistics = torch.cat([statistics, self._foretold(inputs).to(statistics)[None]])
        self.sums = self.sums.to(statistics.device) + statistics
        loss = outputs["loss"]
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # Tokens were counted over all processes, and DDP takes the mean of their gradients.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Look at the step before the optimiser makes it; one that is not finite is none."""
        norm = super()._clip_grad_norm(model)
        batches, self._step_batches = self._step_batches, []
        # Whatever is not finite makes this sum so, and the device is waited for once.
        total = torch.as_tensor(norm).float() + self._tr_loss + self.sums.to(self._tr_loss.device).sum()
        is_faulty = (~total.isfinite()).float()
        if self.accelerator.num_processes > 1:  # all of them do the same
            is_faulty = self.accelerator.reduce(is_faulty, reduction="sum")
        if is_faulty.item() and not self._scaler_takes_it():
            self._pass_over(model, batches)
        return norm

    def _scaler_takes_it(self) -> bool:
        """Return whether the gradient merely overflows float16: the scaler then lowers its scale."""
        scaler = self.accelerator.scaler
        losses = (self._tr_loss + self.sums.to(self._tr_loss.device).sum()).isfinite().float()
        is_finite = bool(self.accelerator.reduce(losses, reduction="mean") == 1.0)
        return scaler is not None and is_finite and scaler.get_scale() > nonfinite.LEAST_SCALE

    def _pass_over(self, model: torch.nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Undo what a step that is not finite has left, so that the optimiser does nothing; or stop.

        Raises:
            JobError: no more steps may be passed over.
        """
        step = self.state.global_step + 1
        student = self.accelerator.unwrap_model(self.model)
        with self.compute_loss_context_manager():
            finding = nonfinite.examine(student, self.objective, batches, self.window_name)
        folder = self.nonfinite_folder / f"step-{step}"
        nonfinite.keep(folder, self.args.process_index, batches, finding)
        message = nonfinite.describe(step, finding, folder)
        if finding.in_parameters or self.num_skipped >= self.most_skipped:
            allowed = "" if finding.in_parameters else ", or let training.on_nonfinite skip a few batches"
            passed = f" ({self.num_skipped} were skipped before)" if self.num_skipped else ""
            raise JobError(f"{message}{passed}: {finding.remedy}{allowed}")
        self.num_skipped += 1
        logger.warning("%s: skipped, %d of at most %d", message, self.num_skipped, self.most_skipped)
        assert self._before_step is not None
        self.sums = self._before_step[0]
        self._tr_loss.copy_(self._before_step[1])
        self._globalstep_last_logged += 1  # the mean of the next log line is over the other steps
        if self.accelerator.scaler is None:  # which skips the step by itself, and wants to see its gradients
            for parameter in model.parameters():
                parameter.grad = None
        self.log({"skipped_steps": float(self.num_skipped)})

    def window_name(self, window: Mapping[str, Tensor]) -> str:
        """Return what a message calls a window of a batch: its place, its document, how its text begins."""
        ids = window["input_ids"][0][window["attention_mask"][0] > 0][1:].tolist()
        tokenizer: Any = self.processing_class
        windows: Any = self.train_dataset
        index = windows.index_of(ids)
        origin = None if index is None else self.origins[windows.documents[index]]
        return nonfinite.window_name(index, origin, tokenizer.decode(ids[:40]))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the terms of the loss, as means since the last line."""
        # An overflow that float16's scaler has dealt with is no figure of the training.
        logs = {name: value for name, value in logs.items() if name != "grad_norm" or math.isfinite(value)}
        if "loss" in logs:
            sums = self.accelerator.reduce(self.sums.to(self.args.device), reduction="sum").cpu()
            values = dict(zip(self.sum_names, sums.tolist(), strict=True))
            self.sums = torch.zeros_like(self.sums)
            self.tokens_seen += int(values["num_tokens"])
            self.targets_seen += int(values["num_targets"])
            self.targets_foretold += int(values[FORETOLD])
            logs["num_tokens"] = values["num_tokens"]
            for name, count in values.items():
                if name.startswith("count.") and count:
                    term = name.removeprefix("count.")
                    logs[term] = values[f"sum.{term}"] / count
            if targets := values["num_targets"]:
                logs["residual_mass"] = values["residual"] / targets
                logs["target_share"] = targets / max(values["num_tokens"], 1)
            if any(stage.companion for stage in self.stages) and targets:
                logs["companion"] = values["companion"] / targets
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint with what has been counted since the last log line, whole or not at all.

        Raises:
            JobError: a weight is not finite, and nothing is written.
        """
        nonfinite.check_student(self.accelerator.unwrap_model(self.model), f"step {self.state.global_step}")
        super()._save_checkpoint(model, trial)
        # An absolute path, which would be wrong after the job is moved: the step says which is the best.
        self.state.best_model_checkpoint = None
        draft = draft_folder(self.checkpoints) / f"checkpoint-{self.state.global_step}"
        self._save_counts(draft)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(draft / TRAINER_STATE))
            seal(self.checkpoints, self.state.global_step, self.args.world_size)
            drop_old(self.checkpoints, self.keep_checkpoints, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder in which the base class writes, and finds nothing else that it could delete."""
        return str(draft_folder(self.checkpoints))

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return Path(str(self.args.output_dir))

    def _save_counts(self, checkpoint: Path) -> None:
        """Keep what has been counted since the last log line beside a checkpoint, one file a process."""
        content = {
            "tokens_seen": self.tokens_seen,
            "targets_seen": self.targets_seen,
            "targets_foretold": self.targets_foretold,
            "sums": self.sums.tolist(),
            "loss": self._tr_loss.item(),
            "last_logged": self._globalstep_last_logged,
            "num_skipped": self.num_skipped,
            "start_bits": self.start_bits,
            "seconds": self.seconds_before + time.time() - self.started,
            "window_counts": self.window_counts,
        }
        (checkpoint / counts_file(self.args.process_index)).write_text(json.dumps(content))

    def load_counts(self, checkpoint: Checkpoint) -> None:
        """Go on counting where the checkpoint was written."""
        content = checkpoint.counts(self.args.process_index)
        self.tokens_seen, self.sums = content["tokens_seen"], torch.tensor(content["sums"])
        self.targets_seen, self.targets_foretold = content["targets_seen"], content["targets_foretold"]
        self.seconds_before, self.num_skipped = content["seconds"], content["num_skipped"]
        self.start_bits = content["start_bits"]
        self._loss_before = (content["loss"], content["last_logged"])

    def restore_loss(self) -> None:
        """Let the next line of the log be the mean loss over all steps since the last one, as if undisturbed.

        The base class begins its sum anew with each start.
        """
        if self._loss_before is not None:
            loss, self._globalstep_last_logged = self._loss_before
            self._tr_loss.fill_(loss)

    @property
    def stages(self) -> tuple[Aligner, ...]:
        """The aligners of the objective."""
        return () if self.objective.aligner is None else self.objective.aligner.stages

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Give what is trained beside the student a learning rate of its own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        theirs = set(self.objective.modules.parameters())
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if parameter in theirs]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if parameter not in theirs]
                options = {name: value for name, value in group.items() if name != "params"}
                optimizer.add_param_group(options | {"params": moved, "lr": self.companion_learning_rate})
        return optimizer

    def _measure_gradient_shares(self, inputs: dict[str, Tensor]) -> None:
        """At a few steps along training, log which share of the gradient each term has."""
        settings, step = self.objective.settings, self.state.global_step
        terms = tuple(settings.terms.active)
        times = settings.gradient_shares if len(terms) > 1 else 0
        interval = max(1, self.state.max_steps // times) if times else 0
        if not interval or step % interval or step == self.measured_at:
            return
        self.measured_at = step
        with self.compute_loss_context_manager():
            shares = gradient_shares(self.accelerator.unwrap_model(self.model), inputs, terms)
        if shares:  # none where the step is not finite, which it will say itself
            self.log({f"gradient_share/{name}": share for name, share in shares.items()})

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure held-out bits per byte and report it under the name that chooses the best checkpoint.

        Raises:
            JobError: the student is not finite any more, or far worse than it has been, or it has learned
                far less of the teacher than was foretold.
        """
        self._check_targets()
        model = self.accelerator.unwrap_model(self.model)
        tokenizer = self.processing_class
        result = bits_per_byte(model, tokenizer, self.held_out, **self.evaluation)
        self._check_divergence(result.bits_per_byte)
        metrics = {f"eval_{BEST_METRIC}": result.bits_per_byte}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def sample_bits(self) -> float:
        """Return the bits per byte of the beginnings of a few held-out texts."""
        texts = [text[:SAMPLE_CHARACTERS] for text in self.held_out[:SAMPLE_TEXTS]]
        model, tokenizer = self.accelerator.unwrap_model(self.model), self.processing_class
        return bits_per_byte(model, tokenizer, texts, **self.evaluation).bits_per_byte

    def _foretold(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return how many positions of a batch the alignment gives a row of the teacher, without waiting."""
        if self.least_targets is None or self.objective.aligner is None:
            return torch.zeros(())
        stage, _ = self.objective.aligner.stage_at(self.objective.progress)
        has_row_BT = batch[f"teacher_position{stage_suffix(stage)}"] >= 0
        return (has_row_BT & (batch["shift_labels"] != IGNORED)).sum()

    def _check_targets(self) -> None:
        """Say aloud that fewer positions got a target than the alignment foretold for the same batches.

        Raises:
            JobError: less than the least part of them did.
        """
        if self.least_targets is None or not self.targets_foretold:
            return
        share = self.targets_seen / self.targets_foretold
        found = (
            f"step {self.state.global_step}: {self.targets_seen:,} positions got a target of the teacher, "
            f"{self.targets_foretold:,} were foretold"
        )
        if share < self.least_targets:
            raise JobError(
                f"{found}: the student can write next to nothing of what the teacher says; take another "
                f"alignment.strategy, or lower training.least_targets = {self.least_targets:g}"
            )
        if share < ALOUD:
            logger.warning("%s; the others learn from the text alone", found)

    def _check_divergence(self, bits: float) -> None:
        """Stop a training that only gets worse.

        Raises:
            JobError: with the cause and what to do.
        """
        step = self.state.global_step
        nonfinite.check_student(self.accelerator.unwrap_model(self.model), f"step {step}")
        found = f"step {step}: held-out text costs {bits:.4g} bits a byte"
        if not math.isfinite(bits):
            raise JobError(f"{found}: training diverged; lower training.learning_rate")
        best = self.state.best_metric
        before = None
        if best is not None and bits > self.max_divergence * best:
            before = f"{best:.4g} at step {self.state.best_global_step}"
        elif self.start_bits is not None and self.sample_bits() > self.max_divergence * self.start_bits:
            before = f"{self.start_bits:.4g} before the training"
        if before is not None:
            raise JobError(
                f"{found}, and {before}: training diverged; lower training.learning_rate, or raise "
                f"training.max_divergence = {self.max_divergence:g} if this is meant"
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBatchedSampler:
        batch_size = self.args.train_batch_size * self.args.world_size
        return LengthBatchedSampler(self.lengths, batch_size, self.args.seed)
