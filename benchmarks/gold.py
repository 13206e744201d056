"""Ours beside the GOLD trainer of TRL: same models, same windows, same number of steps.

    pip install -e ".[compare]" -c constraints.txt
    python -m benchmarks.gold                                          the embedded pair
    python -m benchmarks.gold --tokenizers QWEN2 SMOLLM [--seeds 0]    models over real vocabularies

Given two tokenizers, both models are made first, as no published weights are needed: Llama architecture,
random weights, trained on documentation for some steps, the teacher for many. Each system then trains the
same student in a process of its own on the same windows: ours by `python -m distillation.training`,
evaluations and checkpoints among its memory, GOLD by `GOLDTrainer` with hybrid loss, byte alignment and
"bayesian" merging, on the given text (`lmbda` 0), once with its default weights and once with our share of
cross-entropy. Tokens a second are the median over steps, memory is the peak of the process, bits per byte are
of held-out documents.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.seeds import bits_of, interval, peak_memory, read_settings, run_apart, speed, to_stderr
from distillation.config import Settings, parse_settings
from distillation.experiment.plan import settings_for
from distillation.files import write_json
from distillation.fingerprint import digest_of

TEXT_WEIGHT = 0.1
GOLD = {"GOLD": (0.0, 1.0), "GOLD + text": (TEXT_WEIGHT, 1 - TEXT_WEIGHT)}
"""Weights of cross-entropy and of the distillation loss."""
SYSTEMS = ("text alone", "ours", *GOLD)
PRETRAINING_BYTES = 6_000_000
"""Of the documentation, which is long enough that no text is seen twice while the pair is made."""
WIDTHS, NUM_LAYERS, HEAD_DIM = (192, 128), (4, 3), 32


def make_pair(options: argparse.Namespace, settings: Settings) -> Settings:
    """Return the settings with a pair over the given tokenizers, made where it is missing."""
    roles = ("teacher", "student")
    untrained = {role: options.folder / "untrained" / role for role in roles}
    for index, folder in enumerate(untrained.values()):
        if not (folder / "config.json").exists():
            sizes = (options.rows[index], options.widths[index], NUM_LAYERS[index])
            _write_untrained(folder, options.tokenizers[index], *sizes)
    for role, other, steps in (
        ("teacher", "student", options.teacher_steps),
        ("student", "teacher", options.student_steps),
    ):
        if not (options.folder / role).exists():
            models = {"student": {"path": str(untrained[role])}, "teacher": {"path": str(untrained[other])}}
            _train_on_text(settings, models, steps, options.folder / role)
    pair = {role: {"path": str(options.folder / role)} for role in roles}
    return parse_settings({**settings.model_dump(), "models": {**settings.models.model_dump(), **pair}})


def _train_on_text(settings: Settings, models: dict[str, Any], num_steps: int, folder: Path) -> None:
    """Train the `student` of `models` on text alone into `folder`."""
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_pair
    from distillation.training.job import prepare_job
    from distillation.training.run import run_job

    raw = settings.model_dump()
    raw["models"] |= models
    raw["training"] |= {"max_steps": num_steps, "evaluations": 1}
    raw["corpus"] |= {"max_train_bytes": PRETRAINING_BYTES}
    alone = parse_settings(raw)
    tokenizers, _ = load_pair(alone.models)
    corpus = load_corpus(alone.corpus, tokenizers)
    job_dir = prepare_job(
        corpus,
        settings=settings_for("text_only", alone),
        variant="text_only",
        output_dir=folder.parent / "made",
    )
    run_job(job_dir, on_estimate=to_stderr).student_dir.rename(folder)


def _write_untrained(folder: Path, tokenizer_dir: str, rows: int, width: int, num_layers: int) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // HEAD_DIM,
        intermediate_size=3 * width,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(
    settings: Settings, seeds: Sequence[int], folder: Path, names: Sequence[str] = SYSTEMS
) -> dict[str, Any]:
    """Train the student by some systems for each seed; return bits per byte, tokens/s and MiB by name."""
    from distillation.aligners.build import build_aligner
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_pair

    models = settings.models
    tokenizers, rows = load_pair(models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner(settings.alignment.strategy, *tokenizers.values(), **rows)
    systems: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        seeded = settings.model_copy(update={"seed": seed})
        for name in names:
            if name in GOLD:
                student, figures = _train_gold(name, seeded, corpus, folder)
            else:
                used = aligner if name == "ours" else None
                student, figures = _train_ours(seeded, corpus, used, folder)
            reference = models.student.model_copy(update={"path": str(student)})
            figures["bits"] = bits_of(reference, "student", settings, corpus.test_texts)
            for key, value in figures.items():
                systems.setdefault(name, {}).setdefault(key, []).append(value)
            print(f"seed {seed}, {name}: {figures}", file=sys.stderr, flush=True)
    untouched = bits_of(models.student, "student", settings, corpus.test_texts)
    teacher = bits_of(models.teacher, "teacher", settings, corpus.test_texts)
    return {"untouched": untouched, "teacher": teacher, "systems": systems}


def _train_ours(settings: Settings, corpus: Any, aligner: Any, folder: Path) -> tuple[Path, dict[str, float]]:
    """Train by the product's own command; on text alone without an aligner."""
    from distillation.training.job import prepare_job

    variant = "text_only" if aligner is None else "distilled"
    own = settings_for(variant, settings)
    job_dir = prepare_job(corpus, settings=own, variant=variant, aligner=aligner, output_dir=folder / "jobs")
    run_apart("distillation.training", str(job_dir))
    return job_dir / "student", {"speed": speed(job_dir), "memory": peak_memory(job_dir)}


def _train_gold(name: str, settings: Settings, corpus: Any, folder: Path) -> tuple[Path, dict[str, float]]:
    """Train by GOLD in a process of its own, on the windows that ours sees."""
    from distillation.corpus.windows import LengthBatchedSampler, make_windows
    from distillation.models.load import load_tokenizer, resolve_path, start_token_id
    from distillation.tokenizers.pairs import PairEncoder

    training, models = settings.training, settings.models
    teacher, student = load_tokenizer(models.teacher, "teacher"), load_tokenizer(models.student, "student")
    windows = make_windows(PairEncoder(teacher, student), corpus.train, training.max_length)
    num_steps = training.max_steps or len(windows) // training.batch_size
    order = list(LengthBatchedSampler(windows.lengths, training.batch_size, settings.seed))
    chosen = [windows[index].student.ids for index in order[: num_steps * training.batch_size]]
    job = {
        "teacher": resolve_path(models.teacher, "teacher"),
        "student": resolve_path(models.student, "student"),
        "seed": settings.seed,
        "num_steps": num_steps,
        "weights": GOLD[name],
        "training": training.model_dump(mode="json", exclude={"output_dir"}),
        "texts": [student.decode(ids, clean_up_tokenization_spaces=False) for ids in chosen],
        "start": student.decode([start_token_id(student)]),  # the trainer wants a prompt of some token
        "num_tokens": sum(len(ids) for ids in chosen),
    }
    job_dir = folder / "gold" / digest_of(job)
    done = job_dir / "figures.json"
    if not done.exists():
        job_dir.mkdir(parents=True, exist_ok=True)
        write_json(job_dir / "job.json", job)
        run_apart("benchmarks.gold_trainer", str(job_dir))
    return job_dir / "student", json.loads(done.read_text())


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table."""
    systems = result["systems"]
    ours = {key: interval(values)[0] for key, values in systems["ours"].items()}
    lines = [
        "| system | bits per byte | tokens/s | ours against it | memory | ours against it |",
        "|---|---:|---:|---:|---:|---:|",
        f"| student, untouched | {result['untouched']:.4f} | | | | |",
    ]
    for name, figures in systems.items():
        bits, half = interval(figures["bits"])
        tokens, memory = interval(figures["speed"])[0], interval(figures["memory"])[0]
        shown = f"{bits:.4f}" if len(figures["bits"]) < 2 else f"{bits:.4f} ± {half:.4f}"
        beside = (
            ("", "")
            if name == "ours"
            else (f"{ours['speed'] / tokens:.2f} ×", f"{ours['memory'] / memory:.2f} ×")
        )
        lines.append(f"| {name} | {shown} | {tokens:,.0f} | {beside[0]} | {memory:,.0f} MiB | {beside[1]} |")
    return "\n".join([*lines, f"| teacher | {result['teacher']:.4f} | | | | |"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gold", description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", default="configs/quickstart.yaml")
    parser.add_argument(
        "--tokenizers", nargs=2, metavar=("TEACHER", "STUDENT"), help="folders of two tokenizers"
    )
    parser.add_argument(
        "--rows", type=int, nargs=2, default=[151_936, 49_152], help="output rows of the models"
    )
    parser.add_argument("--widths", type=int, nargs=2, default=WIDTHS, help="widths of the models")
    parser.add_argument("--teacher-steps", type=int, default=600, help="steps that make the teacher")
    parser.add_argument("--student-steps", type=int, default=100, help="steps that make the student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="ours among them")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/gold"), help="what is done already is kept here"
    )
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of the table")
    parser.add_argument("--make-only", action="store_true", help="make the models and stop")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args(arguments)
    settings = read_settings(options.config, options.overrides)
    if options.tokenizers:
        settings = make_pair(options, settings)
    if not options.make_only:
        result = measure(settings, options.seeds, options.folder, options.systems)
        print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
