"""What happens beside a training step: the metrics log and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import ProgressCallback, TrainerCallback

from distillation.metrics_log import METRICS_FILE, MetricsLog
from distillation.models.peak_memory import peak_bytes, restart_peak

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from distillation.training.trainer import DistillationTrainer

SILENT = frozenset(
    {"epoch", "num_tokens", "total_flos", "train_runtime", "train_loss", "num_input_tokens_seen"}
)
"""What the Trainer logs and nobody compares."""
SPEED = frozenset({"train_samples_per_second", "train_steps_per_second"})


class JobCallback(TrainerCallback):
    """Writes `metrics.jsonl`."""

    def __init__(self, directory: Path, trainer: DistillationTrainer) -> None:
        self.trainer = trainer
        self.log = MetricsLog(directory / METRICS_FILE)
        self.last_time = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at memory and speed from here on, and count on from the checkpoint."""
        self.trainer.restore_loss()
        restart_peak(args.device)
        self.last_time = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line, with the speed since the last one and the memory in use."""
        logs = logs or {}
        if not state.is_world_process_zero or SPEED & logs.keys():
            return
        metrics = {
            name.removeprefix("eval_"): float(value) for name, value in logs.items() if name not in SILENT
        }
        if "loss" in logs:
            now = time.perf_counter()
            metrics["tokens_per_second"] = logs["num_tokens"] / max(now - self.last_time, 1e-9)
            metrics["memory_mb"] = peak_bytes(args.device) / 2**20
            self.last_time = now
        self.log.append(state.global_step, self.trainer.tokens_seen, metrics)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the time of an evaluation out of the training speed."""
        self.last_time = time.perf_counter()


class StepProgressCallback(ProgressCallback):
    """The Trainer's progress bar with the variant's name and the latest loss, and no printed dictionaries."""

    def __init__(self, name: str, terms: Sequence[str]) -> None:
        super().__init__()
        self.name = name
        self.terms = terms

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Name the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest loss beside the bar."""
        if self.training_bar is not None and logs:
            shown = {name: logs[name] for name in self.terms if name in logs}
            if shown:
                self.training_bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})
