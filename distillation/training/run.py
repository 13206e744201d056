"""Training: a job directory in, a student out.

It can be killed at any instant and run again: it goes on from the last whole checkpoint and, on a processor,
ends with the same weights to the bit. A finished job returns at once.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.errors import CorpusError, JobError
from distillation.files import write_json
from distillation.stopping import working_on
from distillation.training.job import (
    CACHE_FOLDER,
    COMPLETE,
    Job,
    JobResult,
    read_job,
    read_status,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from distillation.objectives.distillation import DistillationObjective
    from distillation.training.cached_windows import CachedCollator
    from distillation.training.trainer import DistillationTrainer
    from distillation.training.windows import WindowCollator, Windows

logger = logging.getLogger(__name__)
NUM_LOG_LINES = 50
EVALUATION_BATCH = 16


def run_job(
    job_dir: str | Path, *, name: str | None = None, on_estimate: Callable[[str], None] = print
) -> JobResult:
    """Train the student of `job_dir`, going on where an earlier run stopped.

    Args:
        job_dir: as `prepare_job` writes it.
        name: what the progress bar and the estimate call it; None is the job's own variant.
        on_estimate: told one line with size and expected duration before the long work starts.

    Raises:
        JobError: the directory or its teacher cache is damaged.
        ModelError: a model cannot be loaded, or a tokenizer has no start token.
        CorpusError: no window can be made of the corpus.
    """
    directory = Path(job_dir)
    job = read_job(directory)
    status = read_status(directory)
    if status.get("state") == "finished" and (directory / "student" / "config.json").exists():
        return JobResult(job_dir=directory, student_dir=directory / "student", metrics=status["metrics"])
    decided = {"decision": job.decision.model_dump(mode="json")}
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one keeps the house
        write_json(directory / "status.json", {"state": "running", "process": os.getpid()} | decided)
        _drop_incomplete_checkpoints(directory)
    from distillation.probing.quiet import quiet_libraries

    position = functools.partial(_position, directory)
    with (
        working_on(position=position),
        quiet_libraries() as messages,
    ):  # bars of loading and notes on tied weights, many a run
        result = TrainingRun(directory, job, name).train(on_estimate)
    for message in dict.fromkeys(messages):
        logger.debug("%s", message)
    return result


class TrainingRun:
    """One execution of a job: loads its parts once and holds them together."""

    def __init__(self, directory: Path, job: Job, name: str | None = None) -> None:
        from transformers import set_seed

        from distillation.alignment import PairEncoder
        from distillation.corpus import read_corpus
        from distillation.models import load_model, load_tokenizer
        from distillation.training.objective import load_objective
        from distillation.training.windows import make_windows

        self.directory, self.job, self.name = directory, job, name or job.variant
        set_seed(job.seed)
        self.device = job.decision.device
        _claim_gpu(self.device)
        job.decision.obey(
            f"job {directory}", "run the pipeline here, which begins another job for this machine"
        )
        self.student_tokenizer = load_tokenizer(job.models.student, "student")
        self.teacher_tokenizer = load_tokenizer(job.models.teacher, "teacher")
        corpus = read_corpus(directory / "corpus")
        encoder = PairEncoder(self.teacher_tokenizer, self.student_tokenizer)
        self.windows: Windows = make_windows(encoder, corpus.train, job.training.max_length)
        if not len(self.windows):
            raise CorpusError(
                f"corpus of {directory}: no training window can be made ({dict(encoder.refusals)}); "
                "check that the two tokenizers can write this text"
            )
        self.validation = corpus.validation_texts
        # Master weights in float32: small updates vanish in half precision; autocast makes the products fast.
        self.student: PreTrainedModel = load_model(
            job.models.student,
            "student",
            device=self.device,
            dtype="float32",
            attention=job.decision.student_attention,
        )
        self.objective: DistillationObjective = load_objective(
            directory, job, self.student, (self.teacher_tokenizer, self.student_tokenizer), self.device
        )
        self.collator = self._collator()

    def train(self, on_estimate: Callable[[str], None]) -> JobResult:
        """Train, keep the best checkpoint as `student/`, and mark the job finished."""
        from distillation.training.trainer import BEST_METRIC, distilling

        started = time.time()
        with distilling(self.student, self.objective):
            trainer = self._trainer()
            checkpoint = _last_checkpoint(self.directory)
            if trainer.is_world_process_zero():
                on_estimate(self._estimate(trainer, checkpoint))
            trainer.train(resume_from_checkpoint=checkpoint)
        best = trainer.state.best_metric
        metrics = {
            BEST_METRIC: float(best if best is not None else math.nan),
            "steps": float(trainer.state.global_step),
            "best_step": float(trainer.state.best_global_step or trainer.state.global_step),
            "windows": float(len(self.windows)),
            "refused_documents": float(self.windows.counts.num_refused),
            "seconds": time.time() - started,
        }
        if trainer.is_world_process_zero():
            self._save_student(trainer)
            decided = self.job.decision.model_dump(mode="json")
            write_json(
                self.directory / "status.json",
                {"state": "finished", "metrics": metrics, "decision": decided},
            )
        trainer.accelerator.wait_for_everyone()
        return JobResult(job_dir=self.directory, student_dir=self.directory / "student", metrics=metrics)

    def _collator(self) -> WindowCollator | CachedCollator:
        from distillation.models import need_start_token_id
        from distillation.training.windows import WindowCollator

        student_start = need_start_token_id(self.student_tokenizer, "student")
        teacher_start = need_start_token_id(self.teacher_tokenizer, "teacher")
        if self.job.cache is None:
            return WindowCollator(student_start, teacher_start, self.objective.aligner)
        from distillation.teacher.cache import CacheReader
        from distillation.training.cached_windows import CachedCollator, check_windows

        reader = CacheReader(self.directory / CACHE_FOLDER)
        reader.check(self.job.cache_digest)
        check_windows(reader, self.windows.pairs)
        # Only likelihood matching looks at the teacher's tokens and at the groups.
        needs_teacher = self.job.objective.terms.likelihood > 0
        aligner = self.objective.aligner if needs_teacher else None
        return CachedCollator(WindowCollator(student_start, teacher_start, aligner), reader)

    def _trainer(self) -> DistillationTrainer:
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        from distillation.training.callbacks import JobCallback, StepProgressCallback
        from distillation.training.trainer import DistillationTrainer

        length = self.job.training.max_length
        trainer = DistillationTrainer(
            model=self.student,
            args=self._arguments(),
            train_dataset=self.windows,
            eval_dataset=self.windows,  # only asked to be there: `evaluate` measures held-out texts
            data_collator=self.collator,
            processing_class=self.student_tokenizer,
            objective=self.objective,
            companion_learning_rate=self.job.alignment.learning_rate,
            held_out=self.validation,
            evaluation={
                "max_length": length,
                "stride": max(1, length * 3 // 4),
                "batch_size": EVALUATION_BATCH,
            },
            lengths=self.windows.lengths,
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(JobCallback(self.directory, trainer))
        trainer.add_callback(
            StepProgressCallback(self.name, ("cross_entropy", *self.job.objective.terms.active))
        )
        return trainer

    def _arguments(self) -> TrainingArguments:
        from transformers import TrainingArguments

        from distillation.training.trainer import BEST_METRIC

        settings = self.job.training
        steps = self._num_steps()
        interval = max(1, math.ceil(steps / settings.evaluations))
        return TrainingArguments(
            output_dir=str(self.directory / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=math.ceil(settings.warmup_share * steps),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            adam_beta2=0.98,
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=self.job.decision.student_products == "bfloat16",
            fp16=self.job.decision.student_products == "float16",
            use_cpu=self.device == "cpu",
            logging_steps=max(1, steps // NUM_LOG_LINES),
            logging_first_step=True,
            eval_strategy="steps",
            eval_steps=interval,
            save_strategy="steps",
            save_steps=interval,
            save_total_limit=settings.keep_checkpoints,
            load_best_model_at_end=True,
            metric_for_best_model=BEST_METRIC,
            greater_is_better=False,
            remove_unused_columns=False,
            dataloader_pin_memory=self.device == "cuda",
            dataloader_num_workers=num_loaders(self.device),
            seed=self.job.seed,
            data_seed=self.job.seed,
            report_to=[],
        )

    def _num_steps(self) -> int:
        settings = self.job.training
        if settings.max_steps is not None:
            return settings.max_steps
        world = int(os.environ.get("WORLD_SIZE", "1"))
        windows_per_step = settings.batch_size * settings.gradient_accumulation_steps * world
        return max(1, math.ceil(len(self.windows) * settings.num_epochs / windows_per_step))

    def _estimate(self, trainer: DistillationTrainer, checkpoint: str | None) -> str:
        """Time one batch, forward and backward, and say what the run will cost."""
        steps = trainer.args.max_steps
        done = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
        batch = self.collator(
            [self.windows[i] for i in range(min(len(self.windows), self.job.training.batch_size))]
        )
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        seconds = 0.0
        self.student.train()
        for _ in range(2):  # the first one warms up
            begin = time.perf_counter()
            self.student(**batch)["loss"].backward()
            seconds = time.perf_counter() - begin
        self.student.zero_grad(set_to_none=True)
        tokens = (
            self.windows.counts.num_student_tokens / max(len(self.windows), 1) * self.job.training.batch_size
        )
        tokens *= self.job.training.gradient_accumulation_steps * trainer.args.world_size
        left = (steps - done) * seconds * self.job.training.gradient_accumulation_steps
        resumed = f", going on at step {done}" if done else ""
        padding = trainer._get_train_sampler().padding_share()
        size = f"{steps} steps, about {steps * tokens:,.0f} tokens on {self.device}, {padding:.1%} padding"
        return f"{self.name}: {size}{resumed}; {self.job.decision.summary}; about {left / 60:.1f} min"

    def _save_student(self, trainer: DistillationTrainer) -> None:
        """Write the student and its tokenizer into a draft, then put it in place at once."""
        draft, final = self.directory / ".student", self.directory / "student"
        shutil.rmtree(draft, ignore_errors=True)
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(draft)
        self.student_tokenizer.save_pretrained(draft)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)


def num_loaders(device: str) -> int:
    """Return how many processes make batches: one beside a CUDA device, which then never waits for them.

    On a processor making a batch takes a thousandth of a step, and a process more would take a core from it.
    """
    return 1 if device == "cuda" else 0


def _claim_gpu(device: str) -> None:
    """Let `cuda` mean this process's own GPU where `torchrun` or `accelerate launch` started several.

    Args:
        device: as decided for the job.
    """
    import torch

    if device == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _drop_incomplete_checkpoints(directory: Path) -> None:
    for checkpoint in (directory / "checkpoints").glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            logger.warning("%s is incomplete and is dropped", checkpoint.name)
            shutil.rmtree(checkpoint)


def _position(directory: Path) -> str:
    """Return where the job goes on after a stop."""
    whole = [path.parent for path in (directory / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return f"step {max((int(path.name.rsplit('-', 1)[1]) for path in whole), default=0)}"


def _last_checkpoint(directory: Path) -> str | None:
    """Return the newest whole checkpoint.

    Raises:
        JobError: a checkpoint's name has no step.
    """
    found = list((directory / "checkpoints").glob("checkpoint-*"))
    try:
        return str(max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if found else None
    except ValueError as error:
        raise JobError(f"{directory}/checkpoints: {error}; remove what is no checkpoint") from error
