"""All aligners and objectives on the embedded pair: what each is worth, and what it costs.

    python -m benchmarks.objectives                      train what is missing, print the tables
    python -m benchmarks.objectives --speed              measure tokens a second and memory, nothing beside it
    python -m benchmarks.objectives --only prefix,uld    some variants; --seeds 0 1 2, --workers 2, --json

Every student of a seed starts from the same weights and sees the same windows in the same order for the same
number of steps, in a process of its own (`python -m distillation.training JOB_DIR`). Bits per byte are of the
held-out documents that no checkpoint was chosen on. Gap closed is per seed against text alone; intervals are
Student's t over seeds, and a variant is called different from the best only if the interval of the paired
difference leaves out zero. Results are kept in a file, one entry a variant and seed, so that a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.seeds import bits_of, interval, peak_memory, read_settings, run_apart, speed
from distillation.config import Settings, parse_settings
from distillation.experiment.plan import settings_for
from distillation.files import write_json

TEXT_ONLY = "text alone"
DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon")
OTHER_DIVERGENCES = ("skewed_forward_kl", "skewed_reverse_kl", "adaptive_kl", "total_variation")
ALIGNERS = ("prefix", "shared", "projection", "learned", "attention", "truncate")
SCHEDULE = [{"strategy": "shared", "until": 0.3}, {"strategy": "prefix", "until": 1.0}]
TEXT_WEIGHT, TEACHER_WEIGHT = 0.1, 0.9
SPEED_STEPS = 24
SPEED_BYTES = 200_000
Change = Mapping[str, Any]


def variants() -> dict[str, Change]:
    """Return name -> changed settings of every student that is compared."""
    found: dict[str, Change] = {TEXT_ONLY: {"objective": {"terms": {"cross_entropy": 1.0}}}}
    for aligner in ALIGNERS:
        for divergence in DIVERGENCES:
            found[f"{aligner} {divergence}"] = _change({divergence: TEACHER_WEIGHT}, strategy=aligner)
    found["shared>prefix forward_kl"] = _change({"forward_kl": TEACHER_WEIGHT}, schedule=SCHEDULE)
    for divergence in OTHER_DIVERGENCES:
        found[f"prefix {divergence}"] = _change({divergence: TEACHER_WEIGHT})
    for debias in ("none", "product", "merge"):
        options = {"likelihood": {"debias": debias}}
        found[f"likelihood, debias {debias}"] = _change({"likelihood": TEACHER_WEIGHT}, **options)
        found[f"half likelihood, debias {debias}"] = _change({"likelihood": 0.5}, text=0.5, **options)
    found["uld"] = _change({"uld": 1.5}, text=1.0)  # the paper's weights
    found["gold"] = _change({"gold": 1.0}, text=0.0)  # TRL's weights
    found["gold + text"] = _change({"gold": TEACHER_WEIGHT})
    for term, weight in (("likelihood", 0.3), ("hidden", 0.3), ("attention", 0.3)):
        options = {"likelihood": {"debias": "product"}} if term == "likelihood" else {}
        found[f"prefix forward_kl + {term}"] = _change(
            {"forward_kl": TEACHER_WEIGHT, term: weight}, **options
        )
    return found


def _change(
    terms: Mapping[str, float],
    *,
    text: float = TEXT_WEIGHT,
    strategy: str = "prefix",
    schedule: Sequence[Any] = (),
    **options: Any,
) -> Change:
    return {
        "alignment": {"strategy": strategy, "schedule": schedule},
        "objective": {"terms": {"cross_entropy": text, **terms}, **options},
    }


class Comparison:
    """The corpus, the models and the results that all variants share."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        from distillation.corpus.loading import load_corpus
        from distillation.models.load import load_pair

        self.settings, self.folder = settings, folder
        self.results_path = folder / "results.json"
        self.tokenizers, self.rows = load_pair(settings.models)
        self.corpus = load_corpus(settings.corpus, self.tokenizers)

    def results(self) -> dict[str, Any]:
        """Return what has been measured so far, by key."""
        return json.loads(self.results_path.read_text()) if self.results_path.exists() else {}

    def keep(self, key: str, value: Any) -> None:
        """Add one measurement to the file of results."""
        write_json(self.results_path, dict(sorted((self.results() | {key: value}).items())))

    def prepare(self, change: Change, seed: int, folder: Path | None = None, **training: Any) -> Path:
        """Write the job directory of one student."""
        from distillation.aligners.build import build_schedule
        from distillation.training.job import prepare_job

        raw = self.settings.model_dump()
        for section, values in {**change, "training": training}.items():
            raw[section] = {**raw[section], **values}
        settings = parse_settings({**raw, "seed": seed})
        aligner = None
        if settings.objective.uses_teacher:
            aligner = build_schedule(settings.alignment.stages, *self.tokenizers.values(), **self.rows)
        variant = "distilled" if aligner is not None else "text_only"
        return prepare_job(
            self.corpus,
            settings=settings_for(variant, settings),
            variant=variant,
            aligner=aligner,
            output_dir=folder or self.folder / "jobs",
        )

    def train(self, change: Change, seed: int, threads: int, **training: Any) -> Path:
        """Train one student in a process of its own and return its job directory."""
        job_dir = self.prepare(change, seed, **training)
        run_apart("distillation.training", str(job_dir), OMP_NUM_THREADS=str(threads))
        return job_dir

    def bits(self, path: Path | None, role: str = "student") -> float:
        """Return the bits per byte of a student, or of the model of a role as it was."""
        reference = getattr(self.settings.models, role)
        if path is not None:
            reference = reference.model_copy(update={"path": str(path)})
        return bits_of(reference, role, self.settings, self.corpus.test_texts)


def measure_quality(
    comparison: Comparison, chosen: Mapping[str, Change], seeds: Sequence[int], workers: int
) -> None:
    """Train and measure what is missing, `workers` students at a time."""
    import torch

    torch.set_num_threads(1)
    for name, role in (("untouched", "student"), ("teacher", "teacher")):
        if name not in comparison.results():
            comparison.keep(name, comparison.bits(None, role))
    wanted = [(name, seed) for seed in seeds for name in chosen]
    missing = [(name, seed) for name, seed in wanted if f"{name} | {seed}" not in comparison.results()]
    threads = max(1, (os.cpu_count() or 1) // workers)

    def one(task: tuple[str, int]) -> tuple[str, Path]:
        name, seed = task
        return f"{name} | {seed}", comparison.train(chosen[name], seed, threads)

    with ThreadPoolExecutor(workers) as pool:
        for number, (key, job_dir) in enumerate(pool.map(one, missing), 1):
            comparison.keep(key, comparison.bits(job_dir / "student"))
            print(f"{number} of {len(missing)}: {key}: {comparison.results()[key]:.4f}", file=sys.stderr)


def measure_speed(comparison: Comparison, chosen: Mapping[str, Change]) -> None:
    """Run a few steps of each variant, one after another with all cores.

    Kept are the tokens a second and the peak memory of the process, in MiB.
    """
    for name, change in chosen.items():
        steps = {"max_steps": SPEED_STEPS, "evaluations": 1}
        without_guard = {**change, "objective": {**change.get("objective", {}), "gradient_shares": 0}}
        job_dir = comparison.train(without_guard, 1000, os.cpu_count() or 1, **steps)
        comparison.keep(f"speed | {name}", [speed(job_dir), peak_memory(job_dir)])
        print(f"{name}: {comparison.results()[f'speed | {name}']}", file=sys.stderr)


def tables(results: Mapping[str, Any], names: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the Markdown table, best first, and what it says."""
    bits = {
        name: [results[f"{name} | {seed}"] for seed in seeds]
        for name in names
        if all(f"{name} | {seed}" in results for seed in seeds)
    }
    if TEXT_ONLY not in bits:
        yield "Nothing to compare yet: text alone has not been trained for every seed."
        return
    order = sorted(bits, key=lambda name: interval(bits[name])[0])
    best = order[0]
    columns = ("objective", "bits per byte ± 95 %", "gap closed ± 95 %", "behind the best ± 95 %",
               "tokens/s", "memory")  # fmt: skip
    yield "| " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for name in order:
        mean, half = interval(bits[name])
        pairs = zip(bits[TEXT_ONLY], bits[name], strict=True)
        gap, gap_half = interval([(text - one) / (text - results["teacher"]) for text, one in pairs])
        behind, behind_half = interval([a - b for a, b in zip(bits[name], bits[best], strict=True)])
        rate, memory = results.get(f"speed | {name}", (None, None))
        cells = (
            name.replace(" | ", " "),
            f"{mean:.4f} ± {half:.4f}",
            f"{100 * gap:.1f} ± {100 * gap_half:.1f} %",
            "–" if name == best else f"{behind:+.4f} ± {behind_half:.4f}",
            f"{rate:,.0f}" if rate else "",
            f"{memory:,.0f} MiB" if memory else "",
        )
        yield "| " + " | ".join(cells) + " |"
    yield f"| student, untouched | {results['untouched']:.4f} | | | | |"
    yield f"| teacher | {results['teacher']:.4f} | 100 % | | | |"
    yield ""
    yield f"Best: {best}. No measurable difference from it: {', '.join(_tied(bits, best)) or 'none'}."


def _tied(bits: Mapping[str, Sequence[float]], best: str) -> Iterator[str]:
    for name, values in bits.items():
        mean, half = interval([a - b for a, b in zip(values, bits[best], strict=True)])
        if name != best and not mean > half:
            yield name


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectives", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks/objectives"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2, help="students trained at a time")
    parser.add_argument("--only", default="", help="comma-separated beginnings of variants' names")
    parser.add_argument("--speed", action="store_true", help="measure speed and memory instead of quality")
    parser.add_argument("--table", action="store_true", help="only print what has been measured")
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of the table")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = read_settings(options.config, options.overrides)
    beginnings = tuple(filter(None, options.only.split(",")))
    chosen = {name: change for name, change in variants().items()
              if not beginnings or name.startswith((TEXT_ONLY, *beginnings))}  # fmt: skip
    if not options.table:
        comparison = Comparison(settings, options.folder)
        if options.speed:
            measure_speed(comparison, chosen)
        else:
            measure_quality(comparison, chosen, options.seeds, options.workers)
    path = options.folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    print(
        json.dumps(results, indent=2)
        if options.json
        else "\n".join(tables(results, list(chosen), options.seeds))
    )


if __name__ == "__main__":
    main()
