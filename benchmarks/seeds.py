"""Does distillation beat training on text alone? Students, controls and seeds on the embedded default.

    python -m benchmarks.seeds [training.learning_rate=1e-3 ...] [--seeds 0 1 2] [--json]

All students of a seed start from the same weights and see the same windows in the same order for the same
number of steps. Bits per byte are of the held-out documents that no checkpoint was chosen on. Intervals are
Student's t over seeds. Jobs are kept in the job folder, so a second call only prints.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillation.config import Settings, parse_settings
from distillation.experiment.plan import settings_for

VARIANTS = ("text_only", "truncate", "distilled")
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""


def measure(settings: Settings, seeds: Sequence[int]) -> dict[str, Any]:
    """Train every variant for every seed and return bits per byte by name."""
    from distillation.aligners.build import build_aligner
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_pair
    from distillation.training.job import prepare_job
    from distillation.training.run import run_job

    teacher, student = settings.models.teacher, settings.models.student
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    strategies = {"distilled": settings.alignment.strategy, "truncate": "truncate"}
    aligners = {
        name: build_aligner(strategy, *tokenizers.values(), **rows) for name, strategy in strategies.items()
    }
    result: dict[str, Any] = {
        "teacher": bits_of(teacher, "teacher", settings, corpus.test_texts),
        "untouched": bits_of(student, "student", settings, corpus.test_texts),
        "students": {name: [] for name in VARIANTS},
        "tokens_per_second": {name: [] for name in VARIANTS},
    }
    for seed in seeds:
        for variant in VARIANTS:
            job_dir = prepare_job(
                corpus,
                settings=settings_for(variant, settings).model_copy(update={"seed": seed}),
                variant=variant,
                aligner=aligners.get(variant),
            )
            trained = run_job(job_dir, on_estimate=to_stderr)
            reference = student.model_copy(update={"path": str(trained.student_dir)})
            result["students"][variant].append(bits_of(reference, "student", settings, corpus.test_texts))
            result["tokens_per_second"][variant].append(speed(job_dir))
    return result


def read_settings(config: str, overrides: Sequence[str]) -> Settings:
    """Return the settings of a pipeline's YAML with `NAME=VALUE` changes on top."""
    from pipelines.command import merge_overrides
    from pipelines.parameters import read_parameters

    return parse_settings(merge_overrides(read_parameters(config)["parameters"]["settings"], overrides))


def to_stderr(line: str) -> None:
    """Keep standard output for the table."""
    print(line, file=sys.stderr)


def bits_of(reference: Any, role: Any, settings: Settings, texts: Sequence[str]) -> float:
    """Return the bits per byte of a model on `texts`."""
    from distillation.evaluation.bits_per_byte import bits_per_byte
    from distillation.models.load import load_model, load_tokenizer

    model = load_model(reference, role, dtype="float32")
    limits = settings.evaluation
    return bits_per_byte(
        model,
        load_tokenizer(reference, role),
        texts,
        max_length=limits.max_length,
        stride=limits.stride,
        batch_size=limits.batch_size,
    ).bits_per_byte


def speed(job_dir: Path) -> float:
    """Return the median student tokens a second of a finished job."""
    from statistics import median

    from distillation.metrics_log import METRICS_FILE, read_metrics

    lines = read_metrics(job_dir / METRICS_FILE)
    return median(
        line["metrics"]["tokens_per_second"] for line in lines if "tokens_per_second" in line["metrics"]
    )


def peak_memory(job_dir: Path) -> float:
    """Return the peak memory of a finished job's process, in MiB."""
    from distillation.metrics_log import METRICS_FILE, read_metrics

    lines = read_metrics(job_dir / METRICS_FILE)
    return max(line["metrics"].get("memory_mb", 0.0) for line in lines)


def run_apart(module: str, *arguments: str, **environment: str) -> None:
    """Run `python -m module arguments` in a process of its own, quietly.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr[-2000:]}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval; nan for a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, T_95.get(len(values) - 1, 1.96) * deviation / math.sqrt(len(values))


def table(result: dict[str, Any], seeds: Sequence[int]) -> str:
    """Return the result as a Markdown table, one row a model."""
    teacher, students = result["teacher"], result["students"]
    header = ["model", *(f"seed {seed}" for seed in seeds), "mean ± 95 %", "gap closed ± 95 %", "tokens/s"]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    blank = [""] * len(seeds)
    lines.append(
        "| " + " | ".join(["student, untouched", *blank, f"{result['untouched']:.4f}", "", ""]) + " |"
    )
    for name in VARIANTS:
        mean, half = interval(students[name])
        gaps = [
            (text - bits) / (text - teacher)
            for text, bits in zip(students["text_only"], students[name], strict=True)
        ]
        gap, gap_half = interval(gaps)
        shown = "0 %" if name == "text_only" else f"{100 * gap:.1f} ± {100 * gap_half:.1f} %"
        cells = [name, *(f"{bits:.4f}" for bits in students[name]), f"{mean:.4f} ± {half:.4f}", shown]
        lines.append(
            "| " + " | ".join([*cells, f"{interval(result['tokens_per_second'][name])[0]:,.0f}"]) + " |"
        )
    lines.append("| " + " | ".join(["teacher", *blank, f"{teacher:.4f}", "100 %", ""]) + " |")
    return "\n".join(lines)


def verdict(result: dict[str, Any]) -> str:
    """Say in words whether the distilled student won on each seed."""
    students = result["students"]
    wins = {
        control: sum(a < b for a, b in zip(students["distilled"], students[control], strict=True))
        for control in ("text_only", "truncate")
    }
    seeds = len(students["distilled"])
    below = 1 - result["teacher"] / interval(students["text_only"])[0]
    return (
        f"Distilled beats text_only on {wins['text_only']} of {seeds} seeds and truncate on "
        f"{wins['truncate']} of {seeds}. The teacher lies {100 * below:.1f} % below the text-only control."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of the table")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args(arguments)
    result = measure(read_settings(options.config, options.overrides), options.seeds)
    print(
        json.dumps(result, indent=2)
        if options.json
        else f"{table(result, options.seeds)}\n\n{verdict(result)}"
    )


if __name__ == "__main__":
    main()
