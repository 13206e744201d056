"""The job directory: named by content, killed and resumed to the bit, finished jobs return at once."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_settings import make_settings

from distillation.alignment import Aligner, build_aligner, build_schedule
from distillation.config import (
    AlignmentSettings,
    ObjectiveSettings,
    ScheduleStage,
    Settings,
    TermWeights,
)
from distillation.corpus import load_corpus
from distillation.errors import JobError
from distillation.models import configured_output_rows, load_tokenizer
from distillation.training import prepare_job, read_job, read_metrics, run_job
from distillation.training.run import _claim_gpu

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_teacher_dir, tiny_student_dir, english_documents):
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in english_documents))
    settings = make_settings(tiny_teacher_dir, tiny_student_dir, path)
    references = {"teacher": settings.models.teacher, "student": settings.models.student}
    tokenizers = {role: load_tokenizer(reference, role) for role, reference in references.items()}
    aligner = build_aligner(
        "prefix",
        tokenizers["teacher"],
        tokenizers["student"],
        num_teacher_rows=configured_output_rows(references["teacher"], "teacher"),
        num_student_rows=configured_output_rows(references["student"], "student"),
    )
    return settings, load_corpus(settings.corpus, tokenizers), aligner


def run_in_process(job_dir: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "distillation.training", str(job_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def with_companions(settings: Settings) -> tuple[Settings, Aligner]:
    """The same job with an aligner and projections that are trained beside the student, and a schedule."""
    stages = (("shared", 0.3), ("learned", 1.0))
    schedule = tuple(ScheduleStage(strategy=name, until=end) for name, end in stages)
    terms = TermWeights(cross_entropy=0.1, forward_kl=0.6, likelihood=0.2, hidden=0.1)
    settings = settings.model_copy(
        update={
            "alignment": AlignmentSettings(schedule=schedule),
            "objective": ObjectiveSettings(terms=terms),
        }
    )
    models = settings.models
    aligner = build_schedule(
        settings.alignment.stages,
        load_tokenizer(models.teacher, "teacher"),
        load_tokenizer(models.student, "student"),
        num_teacher_rows=configured_output_rows(models.teacher, "teacher"),
        num_student_rows=configured_output_rows(models.student, "student"),
    )
    return settings, aligner


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "with companions"])
def test_killed_and_resumed_ends_with_the_same_weights(parts, tmp_path, kind: str) -> None:
    settings, corpus, aligner = parts
    if kind == "with companions":
        settings, aligner = with_companions(settings)
    whole = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path / "whole")
    assert run_in_process(whole).wait() == 0
    expected = load_file(whole / "student" / "model.safetensors")

    killed = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path / "killed")
    assert killed.name == whole.name
    process = run_in_process(killed)
    kill_after = random.Random(time.time_ns()).choice([1, 4, 7, 11, 16])
    try:
        while process.poll() is None and not _has_step(killed, kill_after):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    print(f"killed after step {kill_after}")
    assert not (killed / "student").exists()
    assert run_in_process(killed).wait() == 0

    found = load_file(killed / "student" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert not any(name.startswith("distillation.") for name in found), "companions stay behind"
    for name, tensor in expected.items():
        assert tensor.equal(found[name]), name
    lines = read_metrics(killed / "metrics.jsonl")
    counted = {line["step"]: line["tokens"] for line in read_metrics(whole / "metrics.jsonl")}
    assert {line["step"]: line["tokens"] for line in lines} == counted
    entries = [(line["step"], name) for line in lines for name in line["metrics"]]
    assert len(entries) == len(set(entries)), "a metric was written twice"
    reference = {
        (line["step"], name) for line in read_metrics(whole / "metrics.jsonl") for name in line["metrics"]
    }
    assert set(entries) == reference


def test_a_stop_is_one_line_and_says_where_the_job_goes_on(parts, tmp_path) -> None:
    settings, corpus, aligner = parts
    longer = settings.training.model_copy(update={"max_steps": 2000, "evaluations": 2000})
    settings = settings.model_copy(update={"training": longer})
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    command = [sys.executable, "-m", "distillation.training", str(job_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and _last_step(job_dir) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    said = re.search(r"^stopped; the same command goes on at step (\d+): (.*)$", err, re.MULTILINE)
    assert said, err
    assert (job_dir / "checkpoints" / f"checkpoint-{said[1]}" / "complete").exists()
    assert said[2] == shlex.join(command)
    assert "Traceback" not in err


def _last_step(job_dir: Path) -> int:
    steps = [int(path.parent.name.rsplit("-", 1)[1]) for path in job_dir.glob("checkpoints/*/complete")]
    return max(steps, default=0)


def _has_step(job_dir: Path, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(job_dir / "metrics.jsonl"))


def test_training_learns_and_a_finished_job_returns_at_once(parts, tmp_path) -> None:
    settings, corpus, aligner = parts
    faster = settings.training.model_copy(update={"learning_rate": 2e-2})
    settings = settings.model_copy(update={"training": faster})
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    estimates: list[str] = []
    result = run_job(job_dir, on_estimate=estimates.append)
    assert len(estimates) == 1
    assert "18 steps" in estimates[0]
    lines = read_metrics(job_dir / "metrics.jsonl")
    losses = [line["metrics"]["cross_entropy"] for line in lines if "loss" in line["metrics"]]
    assert losses[-1] < losses[0] - 0.3
    best = min(line["metrics"].get("held_out/bits_per_byte", 99.0) for line in lines)
    assert result.metrics["held_out/bits_per_byte"] == pytest.approx(best)
    assert lines[-1]["tokens"] > 18 * 4 * 30
    for name in (
        "cross_entropy",
        "forward_kl",
        "gradient_share/forward_kl",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "memory_mb",
    ):
        assert any(name in line["metrics"] for line in lines), name

    modified = (result.student_dir / "model.safetensors").stat().st_mtime_ns
    started = time.perf_counter()
    again = run_job(job_dir)
    assert time.perf_counter() - started < 1.0
    assert again == result
    assert (again.student_dir / "model.safetensors").stat().st_mtime_ns == modified


@pytest.mark.slow
def test_two_processes_train_the_same_student(parts, tmp_path) -> None:
    """Data parallel: each process takes half of a step's windows, and the tokens of both are divided by."""
    settings, corpus, aligner = parts
    students, losses = [], []
    for world, batch_size in ((1, 4), (2, 2)):
        training = {"batch_size": batch_size, "max_steps": 6, "evaluations": 1}
        shared = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
        job_dir = prepare_job(corpus, settings=shared, aligner=aligner, output_dir=tmp_path / f"{world}")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "-m", "distillation.training", str(job_dir)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        students.append(load_file(job_dir / "student" / "model.safetensors"))
        lines = [line for line in read_metrics(job_dir / "metrics.jsonl") if "loss" in line["metrics"]]
        losses.append([(line["tokens"], line["metrics"]["forward_kl"]) for line in lines])
    for (tokens, one), (same_tokens, two) in zip(*losses, strict=True):
        assert tokens == same_tokens
        assert one == pytest.approx(two, rel=1e-4)
    for name, tensor in students[0].items():
        torch.testing.assert_close(tensor, students[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("device", "rank", "expected"), [("cuda", "1", [1]), ("cpu", "1", []), ("cuda", None, [])]
)
def test_each_process_takes_its_own_gpu(monkeypatch, device, rank, expected) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    _claim_gpu(device)
    assert taken == expected


def test_batches_of_another_process_train_the_same_student(parts, tmp_path, monkeypatch) -> None:
    settings, corpus, aligner = parts
    short = settings.training.model_copy(update={"max_steps": 4, "evaluations": 1})
    settings = settings.model_copy(update={"training": short})
    students = []
    for loaders in (0, 1):
        monkeypatch.setattr("distillation.training.run.num_loaders", lambda device, number=loaders: number)
        job_dir = prepare_job(
            corpus, settings=settings, aligner=aligner, output_dir=tmp_path / f"{loaders} loaders"
        )
        students.append(load_file(run_job(job_dir).student_dir / "model.safetensors"))
    for name, tensor in students[0].items():
        assert tensor.equal(students[1][name]), name


def test_an_incomplete_checkpoint_is_dropped(parts, tmp_path) -> None:
    from distillation.training.run import _drop_incomplete_checkpoints, _last_checkpoint

    for step, whole in ((3, True), (6, True), (9, False)):
        directory = tmp_path / "checkpoints" / f"checkpoint-{step}"
        directory.mkdir(parents=True)
        if whole:
            (directory / "complete").touch()
    _drop_incomplete_checkpoints(tmp_path)
    assert _last_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / "checkpoint-6")


def test_the_name_changes_with_what_determines_the_result(parts, tmp_path) -> None:
    settings, corpus, aligner = parts

    def name(changed: Settings, variant: str = "distilled") -> str:
        used = None if variant == "text_only" else aligner
        return prepare_job(corpus, settings=changed, variant=variant, aligner=used, output_dir=tmp_path).name

    def change(section: str, **values) -> Settings:
        part = getattr(settings, section).model_copy(update=values)
        return settings.model_copy(update={section: part})

    base = name(settings)
    assert name(settings) == base
    assert name(change("training", keep_checkpoints=7)) == base
    assert name(change("training", learning_rate=2e-3)) != base
    assert name(change("objective", terms=TermWeights(reverse_kl=0.9))) != base
    assert name(settings.model_copy(update={"seed": 1})) != base
    # The control does not depend on the objective: changing that must not train it again.
    control = name(settings, "text_only")
    assert control != base
    assert name(change("objective", terms=TermWeights(reverse_kl=0.9)), "text_only") == control


def test_bad_directories_are_one_line(parts, tmp_path) -> None:
    settings, corpus, aligner = parts
    with pytest.raises(JobError, match=r"job\.json is missing or damaged"):
        read_job(tmp_path / "nowhere")
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    with pytest.raises(JobError, match="output_dir"):
        prepare_job(corpus, settings=settings, aligner=aligner, output_dir=blocker / "jobs")
    assert blocker.read_text() == "kept"


def test_a_torn_line_is_cut_off(tmp_path) -> None:
    from distillation.training.metrics import MetricsLog

    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "tokens": 5, "time": 0.0, "metrics": {"loss": 2.0}}\n{"step": 2, "tok')
    log = MetricsLog(path)
    log.append(1, 5, {"loss": 2.0})
    log.append(2, 9, {"loss": 1.0})
    assert [(line["step"], line["metrics"]) for line in read_metrics(path)] == [
        (1, {"loss": 2.0}),
        (2, {"loss": 1.0}),
    ]
