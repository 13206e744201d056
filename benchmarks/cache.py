"""Does a student learn as well from the teacher cache as beside the live teacher, and how much faster?

    python -m benchmarks.cache [training.max_steps=300 ...] [--seeds 0 1 2] [--json]

All students of a seed start from the same weights and see the same windows in the same order. Bits per byte
are of the held-out documents that no checkpoint was chosen on. Seconds are of whole jobs, evaluations and
start-up among them; a finished job is not trained again, and its seconds are those of its own run. Jobs run
one after another, and a machine's speed wanders meanwhile: "in turn" are steps of the first seed's jobs that
take turns in one process, medians. Text alone is the least that any step costs. Utilisation is the operations
of a step's products over those that one large product does in the same time.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.device import operations_of, product_rate, seconds_of
from benchmarks.seeds import bits_of, interval, read_settings, speed, to_stderr
from distillation.config import CacheSettings, Settings
from distillation.experiment.plan import settings_for

if TYPE_CHECKING:
    import torch

    from distillation.training.run import TrainingRun

NUM_TURNS, WARM_UP = 34, 4
KINDS = ("text alone", "live", "sampling", "top_k")


def measure(settings: Settings, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for text alone, for the live teacher and for each kind of cache."""
    from distillation.aligners.build import build_aligner
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_pair
    from distillation.teachers.cache.fill import fill_cache, prepare_cache
    from distillation.training.job import prepare_job
    from distillation.training.run import run_job

    models = settings.models
    tokenizers, rows = load_pair(models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner(settings.alignment.strategy, *tokenizers.values(), **rows)
    result = []
    for kind in KINDS:
        chosen = CacheSettings(kind=kind) if kind in ("sampling", "top_k") else None  # type: ignore[arg-type]
        cached = settings.model_copy(update={"cache": chosen})
        cache = None
        if chosen is not None:
            folder = Path(settings.training.output_dir).parent / "teacher_caches"
            request = prepare_cache(corpus, settings=cached, aligner=aligner, output_dir=folder)
            cache = fill_cache(request, on_estimate=to_stderr)
        row: dict[str, Any] = {"kind": kind, "bits": [], "seconds": [], "speed": [], "job_dirs": []}
        row["figures"] = {} if cache is None else cache.metrics
        for seed in seeds:
            seeded = cached.model_copy(update={"seed": seed})
            if kind == "text alone":
                job_dir = prepare_job(corpus, settings=settings_for("text_only", seeded), variant="text_only")
            else:
                job_dir = prepare_job(corpus, settings=seeded, aligner=aligner, cache=cache)
            trained = run_job(job_dir, on_estimate=to_stderr)
            reference = models.student.model_copy(update={"path": str(trained.student_dir)})
            row["job_dirs"].append(job_dir)
            row["bits"].append(bits_of(reference, "student", settings, corpus.test_texts))
            row["seconds"].append(trained.metrics["seconds"])
            row["speed"].append(speed(job_dir))
        result.append(row)
    turns = steps_in_turn([row.pop("job_dirs")[0] for row in result])
    for row, (milliseconds, utilisation) in zip(result, turns, strict=True):
        row |= {"milliseconds": milliseconds, "utilisation": utilisation}
    return result


def steps_in_turn(job_dirs: Sequence[Path]) -> list[tuple[float, float]]:
    """Return (median milliseconds, utilisation) of a training step of each job, all on the same windows."""
    import torch

    from distillation.training.job import read_job
    from distillation.training.run import TrainingRun
    from distillation.training.trainer import distilling

    runs = [TrainingRun(job_dir, read_job(job_dir)) for job_dir in job_dirs]
    optimizers = [torch.optim.AdamW(run.student.parameters(), fused=True) for run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    operations = []
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(distilling(run.student, run.objective))
            run.student.train()
        for number in range(NUM_TURNS):
            for run, optimizer, found in zip(runs, optimizers, seconds, strict=True):
                one = functools.partial(_step, run, optimizer, number)
                found.append(seconds_of(one, is_cuda=run.device == "cuda"))
        for run, optimizer in zip(runs, optimizers, strict=True):
            operations.append(operations_of(functools.partial(_step, run, optimizer, NUM_TURNS - 1)))
    medians = [median(found[WARM_UP:]) for found in seconds]
    peak = product_rate(runs[0].device, runs[0].precision)
    return [(1000 * one, number / one / peak) for one, number in zip(medians, operations, strict=True)]


def _step(run: TrainingRun, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Take one step on the batch of a number."""
    import torch

    size = run.job.training.batch_size
    batch = run.collator([run.windows[i] for i in range(number * size, (number + 1) * size)])
    with torch.autocast(
        run.device, getattr(torch, run.job.decision.student_products), enabled=run.device != "cpu"
    ):
        loss = run.student(**{name: tensor.to(run.device) for name, tensor in batch.items()})["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def table(result: Sequence[dict[str, Any]]) -> str:
    """Return the result as a Markdown table."""
    header = (
        "teacher",
        "bytes/token",
        "bits/byte",
        "against live",
        "job s",
        "tokens/s",
        "ms/step in turn",
        "utilisation",
        "fill s",
        "bias",
    )
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    live = next(row for row in result if row["kind"] == "live")
    for row in result:
        against = [100 * (bits / other - 1) for bits, other in zip(row["bits"], live["bits"], strict=True)]
        mean, half = interval(against)
        spread = f" ± {half:.2f}" if len(against) > 1 else ""
        figures = row["figures"]
        cells = [
            row["kind"],
            f"{figures['bytes_per_token']:.1f}" if figures else "",
            f"{interval(row['bits'])[0]:.4f}",
            f"{mean:+.2f}{spread} %" if row is not live else "",
            f"{interval(row['seconds'])[0]:.0f}",
            f"{interval(row['speed'])[0]:,.0f}",
            f"{row['milliseconds']:.0f} ({live['milliseconds'] / row['milliseconds']:.2f} ×)",
            f"{row['utilisation']:.0%}",
            f"{figures['seconds']:.0f}" if figures else "",
            f"{figures['dense/bias']:.3f}" if figures else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__)
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of the table")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args(arguments)
    result = measure(read_settings(options.config, options.overrides), options.seeds)
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
