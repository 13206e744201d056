"""Trains by TRL's GOLD trainer on texts: the other side of `benchmarks.gold`, which writes the job.

    python -m benchmarks.gold_trainer JOB_DIR

It does nothing but call the trainer with the same optimiser as ours; a user of TRL would write the same.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from distillation.files import write_json


class StepClock(TrainerCallback):
    """Keeps the seconds from one updated weight to the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock."""
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def train_gold(job_dir: Path) -> None:
    """Run the GOLD trainer on the texts of `job_dir` and write its student and figures."""
    from statistics import median

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    from distillation.models.peak_memory import peak_bytes

    job = json.loads((job_dir / "job.json").read_text())
    training, (text_weight, teacher_weight) = job["training"], job["weights"]
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(job[role], dtype="float32") for role in ("student", "teacher")
    )
    tokenizer = AutoTokenizer.from_pretrained(job["student"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # the trainer asks for one
    clock = StepClock()
    trainer = GOLDTrainer(
        model=student,
        teacher_model=teacher,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(
            {"prompt": [job["start"]] * len(job["texts"]), "completion": job["texts"]}
        ),
        callbacks=[clock],
        args=GOLDConfig(
            output_dir=str(job_dir / "trainer"),
            max_steps=job["num_steps"],
            per_device_train_batch_size=training["batch_size"],
            gradient_accumulation_steps=1,
            learning_rate=training["learning_rate"],
            lr_scheduler_type=training["schedule"],
            warmup_steps=round(training["warmup_share"] * job["num_steps"]),
            weight_decay=training["weight_decay"],
            max_grad_norm=training["max_grad_norm"],
            adam_beta2=0.98,
            bf16=False,
            use_cpu=True,
            max_length=2 * training["max_length"],
            max_completion_length=training["max_length"],
            lmbda=0.0,
            use_uld_loss=True,
            use_extended_uld=True,
            uld_use_hybrid_loss=True,
            uld_token_merge_strategy="bayesian",
            uld_crossentropy_weight=text_weight,
            uld_distillation_weight=teacher_weight,
            teacher_tokenizer_name_or_path=job["teacher"],
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=job["seed"],
        ),
    )
    trainer.train()
    trainer.save_model(str(job_dir / "student"))
    tokens = job["num_tokens"] / job["num_steps"]
    write_json(
        job_dir / "figures.json",
        {"speed": tokens / median(clock.seconds), "memory": peak_bytes(trainer.args.device) / 2**20},
    )


if __name__ == "__main__":
    train_gold(Path(sys.argv[1]))
