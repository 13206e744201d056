"""Training: a job directory in, a student out.

It can be killed at any instant and run again: it goes on from the last whole checkpoint and, on a processor,
ends with the same weights to the bit. A finished job returns at once.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.config import DIVERGENCES
from distillation.corpus.inputs import check_inputs, check_model
from distillation.errors import CorpusError, JobError
from distillation.files import storing
from distillation.sources import digest_of_sources
from distillation.stopping import working_on
from distillation.training.checkpoints import (
    FOLDER,
    Checkpoint,
    drop_drafts,
    newest,
    newest_step,
    newest_usable,
    restore_log,
)
from distillation.training.finishing import decided, finish, finished_result
from distillation.training.job import (
    CACHE_FOLDER,
    ENTRY,
    JOB_FILE,
    STATUS_FILE,
    Job,
    JobResult,
    read_job,
    read_status,
    write_status,
)
from distillation.training.processes import (
    claim_gpu,
    is_first_process,
    num_processes,
    only_writer,
    wait_for_everyone,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from distillation.corpus.windows import WindowCollator, Windows
    from distillation.losses.objective import DistillationObjective
    from distillation.teachers.cache.windows import CachedCollator
    from distillation.training.trainer import DistillationTrainer

logger = logging.getLogger(__name__)
NUM_LOG_LINES = 50
EVALUATION_BATCH = 16
MAX_ROUNDS = 3
"""How often training goes back to an earlier checkpoint because a later one was damaged meanwhile."""


def run_job(
    job_dir: str | Path,
    *,
    name: str | None = None,
    wait: bool | None = None,
    on_estimate: Callable[[str], None] = print,
) -> JobResult:
    """Train the student of `job_dir`, going on where an earlier run stopped.

    Args:
        job_dir: as `prepare_job` writes it.
        name: what the progress bar and the estimate call it; None is the job's own variant.
        wait: for another process that is at work in the directory, instead of leaving with an error; None is
            what `training.when_busy` says.
        on_estimate: told one line with size and expected duration before the long work starts.

    Raises:
        JobError: the directory, a model's folder or its teacher cache is damaged or another.
        LockError: another process is at work in the directory.
        StorageError: it cannot be written.
        ModelError: a model cannot be loaded, or a tokenizer has no start token.
        CorpusError: no window can be made of the corpus.
    """
    directory = Path(job_dir)
    job = read_job(directory)
    finished = finished_result(directory)  # only read: no lock, and a folder that cannot be written will do
    if finished is not None:
        return finished
    should_wait = job.training.when_busy == "wait" if wait is None else wait
    from distillation.quiet import quiet_libraries

    with (
        storing(directory, "training.output_dir"),
        only_writer(directory, should_wait),
        working_on(position=lambda: f"step {newest_step(directory / FOLDER)}"),
        quiet_libraries() as messages,  # bars of loading and notes on tied weights, many a run
    ):
        result = _trained(directory, job, name, on_estimate)
    for message in dict.fromkeys(messages):
        logger.debug("%s", message)
    return result


def _trained(directory: Path, job: Job, name: str | None, on_estimate: Callable[[str], None]) -> JobResult:
    """Train what is left of the steps and make the student of the best checkpoint.

    Raises:
        JobError: as `run_job`, or checkpoints are damaged again and again.
    """
    wait_for_everyone(job.decision.device)  # the first process has the lock
    finished = finished_result(directory, tell=False)  # while this one waited
    if finished is not None:
        return finished
    folder = directory / FOLDER
    was_finished = read_status(directory, tell=False).get("state") == "finished"
    wait_for_everyone(job.decision.device)
    if is_first_process():
        drop_drafts(folder)
    for _ in range(MAX_ROUNDS):
        if is_first_process():
            newest_usable(folder, num_processes())
            restore_log(folder)
        wait_for_everyone(job.decision.device)
        checkpoint = newest(folder)
        if checkpoint is None and was_finished:
            raise JobError(
                f"job directory {directory}: the student of the finished job is damaged, and no whole "
                f"checkpoint is left to make it of; remove {STATUS_FILE} to train it anew"
            )
        if checkpoint is not None and checkpoint.has_all_steps:
            return finish(directory, job, checkpoint)
        _check_before_training(directory, job)
        if is_first_process():
            write_status(directory, {"state": "running", "process": os.getpid()} | decided(job))
        TrainingRun(directory, job, name).train(on_estimate, checkpoint)
        wait_for_everyone(job.decision.device)
    raise JobError(f"{folder}: checkpoints were damaged again and again; check the disk")


def _check_before_training(directory: Path, job: Job) -> None:
    """Compare machine, models, corpus and aligner with what the job was prepared for.

    Raises:
        JobError: one is another.
        ModelError: a model is gone.
    """
    claim_gpu(job.decision.device)
    job.decision.obey(f"job {directory}", "run the pipeline here, which begins another job for this machine")
    if job.teacher_digest is not None:
        check_model(job.models.teacher, "teacher", job.teacher_digest, directory / JOB_FILE)
    check_model(job.models.student, "student", job.student_digest, directory / JOB_FILE)
    check_inputs(directory)
    if job.sources_digest != digest_of_sources(ENTRY):
        logger.warning(
            "job %s was prepared with other code or libraries, and its student may differ from theirs; "
            "prepare it again for a student of these",
            directory,
        )


class TrainingRun:
    """One execution of a job: loads its parts once and holds them together."""

    def __init__(self, directory: Path, job: Job, name: str | None = None) -> None:
        from transformers import set_seed

        from distillation.corpus.corpus import read_corpus
        from distillation.corpus.windows import make_windows, remedy_for
        from distillation.models.load import load_model, load_tokenizer, rows_of_pair
        from distillation.tokenizers.pairs import PairEncoder
        from distillation.training.build_objective import load_objective
        from distillation.training.trial import make_savable, name_of

        self.directory, self.job, self.name = directory, job, name or job.variant
        set_seed(job.seed)
        self.device = job.decision.device
        self.student_tokenizer = load_tokenizer(job.models.student, "student")
        self.teacher_tokenizer = load_tokenizer(job.models.teacher, "teacher")
        corpus = read_corpus(directory / "corpus")
        encoder = PairEncoder(self.teacher_tokenizer, self.student_tokenizer, **rows_of_pair(job.models))
        self.windows: Windows = make_windows(encoder, corpus.train, job.training.max_length)
        if not len(self.windows):
            raise CorpusError(
                f"corpus of {directory}: no training window can be made ({dict(encoder.refusals)}); "
                f"{remedy_for(encoder.refusals)}"
            )
        self.origins: list[str] = corpus.train["origin"][:]
        self.validation = corpus.validation_texts
        # Master weights in float32: small updates vanish in half precision; autocast makes the products fast.
        self.student: PreTrainedModel = load_model(
            job.models.student,
            "student",
            device=self.device,
            dtype="float32",
            attention=job.decision.student_attention,
        )
        make_savable(self.student, name_of(job.models.student.path, "student"))
        self.objective: DistillationObjective = load_objective(
            directory, job, self.student, (self.teacher_tokenizer, self.student_tokenizer), self.device
        )
        self.collator = self._collator()

    def train(self, on_estimate: Callable[[str], None], checkpoint: Checkpoint | None) -> None:
        """Train up to the last step, whose checkpoint names the best one."""
        from distillation.training.trainer import distilling

        if checkpoint is None:
            self._try_out()
        with distilling(self.student, self.objective):
            trainer = self._trainer()
            if checkpoint is not None:
                trainer.load_counts(checkpoint)
            elif not self.is_control:
                trainer.start_bits = trainer.sample_bits()
            if trainer.is_world_process_zero():
                on_estimate(self._estimate(trainer, 0 if checkpoint is None else checkpoint.step))
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.path))

    @property
    def is_control(self) -> bool:
        """Whether the student is taught what is wrong, to show what that does."""
        from distillation.aligners.truncate import PadAligner

        aligner = self.objective.aligner
        return self.job.targets_may_be_wrong or (
            aligner is not None and any(isinstance(stage, PadAligner) for stage in aligner.stages)
        )

    def _try_out(self) -> None:
        """Try what the run and the evaluation of its student will need at their end.

        Raises:
            ModelError: a model cannot do it.
        """
        from distillation.teachers.live import LiveTeacher
        from distillation.training.trial import name_of, try_saving, try_speaking

        models = self.job.models
        name = name_of(models.student.path, "student")
        try_saving(self.student, self.student_tokenizer, self.directory, name)
        try_speaking(self.student, self.student_tokenizer, name)
        if isinstance(self.objective.teacher, LiveTeacher):
            model = self.objective.teacher.reader.model
            try_speaking(model, self.teacher_tokenizer, name_of(models.teacher.path, "teacher"))

    @property
    def least_targets(self) -> float | None:
        """Which part of the targets that were foretold must come; None in a control and without targets."""
        has_targets = bool(self.job.objective.terms.active.keys() & set(DIVERGENCES))
        return self.job.training.least_targets if has_targets and not self.is_control else None

    def _collator(self) -> WindowCollator | CachedCollator:
        from distillation.corpus.windows import WindowCollator
        from distillation.models.load import need_start_token_id

        student_start = need_start_token_id(self.student_tokenizer, "student")
        teacher_start = need_start_token_id(self.teacher_tokenizer, "teacher")
        if self.job.cache is None:
            return WindowCollator(student_start, teacher_start, self.objective.aligner)
        from distillation.teachers.cache.store import CacheReader
        from distillation.teachers.cache.windows import CachedCollator, check_windows

        reader = CacheReader(self.directory / CACHE_FOLDER)
        reader.check(self.job.cache_digest)
        check_windows(reader, self.windows.pairs)
        # Only likelihood matching looks at the teacher's tokens and at the groups.
        needs_teacher = self.job.objective.terms.likelihood > 0
        aligner = self.objective.aligner if needs_teacher else None
        asked = self.objective.aligner if self.least_targets is not None else None
        return CachedCollator(WindowCollator(student_start, teacher_start, aligner), reader, asked)

    def _trainer(self) -> DistillationTrainer:
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        from distillation.training import nonfinite
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
            window_counts=self.windows.counts.by_name(),
            keep_checkpoints=self.job.training.keep_checkpoints,
            nonfinite_folder=self.directory / nonfinite.FOLDER,
            most_skipped=self.job.training.most_skipped,
            max_divergence=self.job.training.max_divergence,
            origins=self.origins,
            least_targets=self.least_targets,
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
            output_dir=str(self.directory / FOLDER),
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
            logging_nan_inf_filter=False,  # it would log a loss that is no number as the mean of the others
            eval_strategy="steps",
            eval_steps=interval,
            save_strategy="steps",
            save_steps=interval,
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

    def _estimate(self, trainer: DistillationTrainer, done: int) -> str:
        """Time one batch, forward and backward, and say what the run will cost after `done` steps."""
        steps = trainer.args.max_steps
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


def num_loaders(device: str) -> int:
    """Return how many processes make batches: one beside a CUDA device, which then never waits for them.

    On a processor making a batch takes a thousandth of a step, and a process more would take a core from it.
    """
    return 1 if device == "cuda" else 0
