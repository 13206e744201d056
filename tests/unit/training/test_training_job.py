"""The job directory: named by content, killed and resumed to the bit, finished jobs return at once."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from processors import TILES, VECTORS, give_processor
from safetensors.torch import load_file
from training_settings import make_settings

from distillation.aligners.base import Aligner
from distillation.aligners.build import build_aligner, build_schedule
from distillation.config import (
    CONTROLS,
    AlignmentSettings,
    ObjectiveSettings,
    ScheduleStage,
    Settings,
    TermWeights,
)
from distillation.corpus.inputs import check_inputs, check_model
from distillation.corpus.loading import load_corpus
from distillation.errors import DistillationError, JobError, ModelError
from distillation.fingerprint import digest_of_directory
from distillation.locks import exclusive
from distillation.metrics_log import MetricsLog, read_metrics, sealed_line
from distillation.models.load import configured_output_rows, load_tokenizer
from distillation.training.__main__ import main
from distillation.training.checkpoints import newest_step
from distillation.training.job import prepare_job, read_job, read_status, write_status
from distillation.training.processes import claim_gpu
from distillation.training.run import TrainingRun, run_job

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
    while process.poll() is None and newest_step(job_dir / "checkpoints") < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    said = re.search(r"^stopped; the same command goes on at step (\d+): (.*)$", err, re.MULTILINE)
    assert said, err
    assert (job_dir / "checkpoints" / f"checkpoint-{said[1]}" / "manifest.json").exists()
    assert said[2] == shlex.join(command)
    assert "Traceback" not in err


def _has_step(job_dir: Path, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(job_dir / "metrics.jsonl"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_student_is_trained_with_the_attention_of_its_settings(parts, tmp_path, attention: str) -> None:
    settings, corpus, aligner = parts
    student = settings.models.student.model_copy(update={"attention": attention})
    models = settings.models.model_copy(update={"student": student})
    settings = settings.model_copy(update={"models": models})
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    loaded = TrainingRun(job_dir, read_job(job_dir)).student
    assert loaded.config._attn_implementation == attention
    assert loaded.dtype == torch.float32


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
    assert 0.9 * result.metrics["foretold_targets"] < result.metrics["targets"] > 0
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
    claim_gpu(device)
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


SHORT = {"max_steps": 6, "evaluations": 3, "keep_checkpoints": 3}


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory) -> Path:
    """A job of six steps, with a checkpoint every two; copies of it are hurt."""
    settings, corpus, aligner = parts
    short = settings.training.model_copy(update=SHORT)
    settings = settings.model_copy(update={"training": short})
    job_dir = prepare_job(
        corpus, settings=settings, aligner=aligner, output_dir=tmp_path_factory.mktemp("finished")
    )
    run_job(job_dir)
    return job_dir


def copy_of(job_dir: Path, folder: Path) -> Path:
    return Path(shutil.copytree(job_dir, folder / job_dir.name))


def unfinish(job_dir: Path) -> None:
    """Leave a job as a kill does after its last checkpoint, while the student was being written."""
    shutil.rmtree(job_dir / "student")
    (job_dir / ".student.draft").mkdir()
    write_status(job_dir, {"state": "running", "process": 1})


def student_of(job_dir: Path) -> str:
    return digest_of_directory(job_dir / "student")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_job_with_all_its_steps_only_writes_its_student(finished, tmp_path, monkeypatch) -> None:
    job_dir = copy_of(finished, tmp_path)
    expected, log = run_job(finished), (job_dir / "metrics.jsonl").read_bytes()
    monkeypatch.setattr("distillation.training.run.TrainingRun", None)
    for leave in (unfinish, lambda path: (path / "status.json").unlink()):
        leave(job_dir)
        result = run_job(job_dir)
        assert result.metrics == expected.metrics
        assert student_of(job_dir) == student_of(finished)
    assert (job_dir / "metrics.jsonl").read_bytes() == log
    assert {path.name for path in (job_dir / "checkpoints").glob("checkpoint-*")} == {
        f"checkpoint-{step}" for step in (2, 4, 6)
    }


def test_a_moved_job_without_its_best_checkpoint_goes_back_and_ends_the_same(
    finished, tmp_path, caplog
) -> None:
    """The old place is still there: nothing may be read from it."""
    job_dir = copy_of(finished, tmp_path)
    best = int(run_job(finished).metrics["best_step"])
    assert best == 6
    unfinish(job_dir)
    flip_a_bit(job_dir / "checkpoints" / "checkpoint-6" / "model.safetensors")
    (job_dir / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    result = run_job(job_dir)
    assert result.metrics["best_step"] == best
    assert student_of(job_dir) == student_of(finished)
    assert sum("cannot be used" in record.getMessage() for record in caplog.records) == 2
    state = (job_dir / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text()
    assert str(tmp_path) not in state
    lines = {path: read_metrics(path / "metrics.jsonl") for path in (finished, job_dir)}
    assert lines[job_dir] == lines[finished]


def test_a_resume_between_two_lines_of_the_log_changes_no_figure(parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "distillation.training.run.NUM_LOG_LINES", 2
    )  # a line at 3 and 6, checkpoints at 2, 4, 6
    settings, corpus, aligner = parts
    short = settings.training.model_copy(update=SHORT)
    settings = settings.model_copy(update={"training": short})
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    run_job(job_dir)
    whole = read_metrics(job_dir / "metrics.jsonl")
    for step in (4, 6):
        shutil.rmtree(job_dir / "checkpoints" / f"checkpoint-{step}")
    shutil.copyfile(job_dir / "checkpoints" / "checkpoint-2" / "metrics.jsonl", job_dir / "metrics.jsonl")
    unfinish(job_dir)
    run_job(job_dir)
    resumed = read_metrics(job_dir / "metrics.jsonl")
    assert [line["step"] for line in resumed] == [line["step"] for line in whole]
    for name in ("loss", "forward_kl", "grad_norm", "learning_rate", "num_tokens", "held_out/bits_per_byte"):
        values = [[line["metrics"].get(name) for line in lines] for lines in (whole, resumed)]
        assert values[0] == values[1], name


def test_a_damaged_log_is_brought_back_from_the_checkpoint(finished, tmp_path, caplog) -> None:
    log = (finished / "metrics.jsonl").read_bytes()
    for harm in (log[: len(log) // 2], log.replace(b"learning_rate", b"learning_race", 1), b""):
        for leave in (lambda job_dir: None, unfinish):
            job_dir = copy_of(finished, tmp_path)
            leave(job_dir)
            (job_dir / "metrics.jsonl").write_bytes(harm)
            run_job(job_dir)
            assert (job_dir / "metrics.jsonl").read_bytes() == log
            assert "it is brought back from" in caplog.text
            caplog.clear()
            shutil.rmtree(job_dir)


def test_what_a_damaged_log_has_lost_for_good_is_told(finished, tmp_path, caplog) -> None:
    job_dir = copy_of(finished, tmp_path)
    shutil.rmtree(job_dir / "checkpoints")
    flip_a_bit(job_dir / "metrics.jsonl")
    run_job(job_dir)
    assert "metrics.jsonl is not what was written; its curves lack points" in caplog.text


def test_a_damaged_student_of_a_finished_job_is_made_again(finished, tmp_path, caplog) -> None:
    job_dir = copy_of(finished, tmp_path)
    student = job_dir / "student"
    for damage in (
        lambda: flip_a_bit(student / "model.safetensors"),
        lambda: (student / "tokenizer.json").unlink(),
        lambda: shutil.rmtree(student),
    ):
        damage()
        caplog.clear()
        assert run_job(job_dir).metrics == run_job(finished).metrics
        assert student_of(job_dir) == student_of(finished)
        [record] = caplog.records
        assert "made again of the best checkpoint" in record.getMessage()
    shutil.rmtree(job_dir / "checkpoints")
    assert run_job(job_dir).student_dir == student, "nothing is wrong: no checkpoint is needed"
    flip_a_bit(student / "config.json")
    with pytest.raises(
        JobError, match=r"no whole checkpoint is left .* remove status\.json to train it anew"
    ):
        run_job(job_dir)


def test_one_writer(finished, tmp_path, capsys) -> None:
    job_dir = copy_of(finished, tmp_path)
    with exclusive(job_dir, "job directory"):
        assert run_job(job_dir).job_dir == job_dir, "a finished job is only read"
        unfinish(job_dir)
        assert main([str(job_dir)]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"process {os.getpid()} on" in told
        waiting = threading.Thread(target=main, args=([str(job_dir), "--wait"],))
        waiting.start()
        told = ""
        while waiting.is_alive() and "waiting for process" not in told:
            told += capsys.readouterr().err
        assert not (job_dir / "student").exists()
    waiting.join()
    assert student_of(job_dir) == student_of(finished)


def test_what_a_job_was_prepared_with_is_compared(finished, tmp_path, parts) -> None:
    settings, corpus, aligner = parts
    job_dir = copy_of(finished, tmp_path)
    unfinish(job_dir)
    text = (job_dir / "job.json").read_text()
    for before, after in (('"seed": 0', '"seed": 1'), ('"learning_rate": 0.001', '"learning_rate": 0.002')):
        assert before in text
        (job_dir / "job.json").write_text(text.replace(before, after))
        with pytest.raises(
            JobError, match=rf"job\.json is that of distilled-.*{job_dir.name}|it was changed"
        ):
            run_job(job_dir)
    (job_dir / "job.json").write_text(text)
    with pytest.raises(JobError, match="or the folder renamed"):
        run_job(job_dir.rename(job_dir.with_name("mine")))
    job_dir.with_name("mine").rename(job_dir)
    shutil.rmtree(job_dir / "checkpoints")
    for path in ("corpus/train.parquet", "aligner/aligner.json", "inputs.json"):
        kept = (job_dir / path).read_bytes()
        flip_a_bit(job_dir / path)
        with pytest.raises(JobError, match=rf"{path}.*prepare it again"):
            run_job(job_dir)
        (job_dir / path).write_bytes(kept)
    # The remedy is right: preparing mends, and leaves what was trained.
    flip_a_bit(job_dir / "corpus" / "train.parquet")
    (job_dir / "job.json").unlink()
    job = read_job(finished)
    again = settings.model_copy(update={"training": job.training})
    assert prepare_job(corpus, settings=again, aligner=aligner, output_dir=tmp_path) == job_dir
    check_inputs(job_dir)
    assert read_job(job_dir) == job
    assert (job_dir / "metrics.jsonl").exists()


def test_a_job_can_be_run_from_another_folder(parts, tmp_path, monkeypatch) -> None:
    settings, corpus, aligner = parts
    names = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        shutil.copytree(settings.models.student.path, "models/student")
        student = settings.models.student.model_copy(update={"path": "models/student"})
        moved = settings.model_copy(
            update={"models": settings.models.model_copy(update={"student": student})}
        )
        names.append(prepare_job(corpus, settings=moved, aligner=aligner, output_dir=tmp_path / "jobs"))
        found = read_job(names[-1]).models.student.path
        assert found == str(tmp_path / place / "models" / "student")
    job_dir = names[0]
    assert names == [job_dir, job_dir], "where a model lies is no part of the name, and the last place counts"
    job = read_job(job_dir)
    (tmp_path / "there" / "models" / "student" / "config.json").write_text("{}")
    with pytest.raises(JobError, match=r"models\.student\.path = .*its files are not those"):
        check_model(job.models.student, "student", job.student_digest, job_dir / "job.json")
    # As a job of an earlier version has it: a relative path that could pass for a name on the hub.
    text = (job_dir / "job.json").read_text().replace(str(tmp_path / "there") + "/", "")
    (job_dir / "job.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"models\.student\.path = models/student: no such directory, seen"):
        run_job(job_dir)


def test_several_that_prepare_one_job_at_once_find_it_whole(parts, tmp_path) -> None:
    settings, corpus, aligner = parts
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(prepare_job, corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
            for _ in range(4)
        ]
    [job_dir] = {future.result() for future in futures}
    check_inputs(job_dir)
    assert [path.name for path in tmp_path.iterdir()] == [job_dir.name]


def test_damaged_small_files_are_told_in_one_line(finished, tmp_path, caplog) -> None:
    job_dir = copy_of(finished, tmp_path)
    expected = run_job(finished)
    for content in ("", '{"state": "fin', '{"state": "finished"}', "[1]", "[" * 100_000):
        caplog.clear()
        (job_dir / "status.json").write_text(content)
        assert run_job(job_dir) == expected.model_copy(
            update={"job_dir": job_dir, "student_dir": job_dir / "student"}
        )
        [record] = caplog.records
        assert "status.json" in record.getMessage()


def test_the_name_changes_with_what_determines_the_result(parts, tmp_path) -> None:
    settings, corpus, aligner = parts

    def name(changed: Settings, variant: str = "distilled") -> str:
        used = None if variant == "text_only" else aligner
        own = changed if variant == "distilled" else CONTROLS[variant].settings(changed)
        return prepare_job(corpus, settings=own, variant=variant, aligner=used, output_dir=tmp_path).name

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


def test_load_makes_no_other_job_and_another_processor_does(parts, tmp_path, monkeypatch) -> None:
    settings, corpus, aligner = parts

    def prepare() -> Path:
        return prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)

    give_processor(monkeypatch, VECTORS)
    plain = prepare()
    total = psutil.virtual_memory().total
    with monkeypatch.context() as busy:
        busy.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000, total=total))
        assert prepare() == plain
    assert read_job(plain).decision.teacher_dtype == "float32"
    give_processor(monkeypatch, TILES)
    tiled = prepare()
    assert tiled.name != plain.name
    assert read_job(tiled).decision.teacher_dtype == "bfloat16"
    give_processor(monkeypatch, VECTORS)
    with pytest.raises(JobError, match=r"begun with bfloat16 by amx, .* run the pipeline here") as caught:
        run_job(tiled)
    assert "\n" not in str(caught.value)
    assert prepare() == plain


def test_the_job_says_what_it_computes_with(parts, tmp_path, monkeypatch) -> None:
    """Read from job.json alone: settings that would be decided otherwise here change nothing."""
    settings, corpus, aligner = parts
    training = {"max_steps": 2, "evaluations": 1, "autocast": "bfloat16"}
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    job_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path)
    for name in ("choose_device", "choose_dtype", "choose_products"):
        monkeypatch.setattr(f"distillation.models.device.{name}", lambda *_: pytest.fail("decided again"))
        monkeypatch.setattr(f"distillation.models.decision.{name}", lambda *_: pytest.fail("decided again"))
    estimates: list[str] = []
    student = load_file(run_job(job_dir, on_estimate=estimates.append).student_dir / "model.safetensors")
    decision = read_job(job_dir).decision
    assert decision.student_products == "bfloat16"
    assert {tensor.dtype for tensor in student.values()} == {torch.float32}
    assert all(bool(tensor.isfinite().all()) for tensor in student.values())
    assert decision.summary in estimates[0]
    assert read_status(job_dir)["decision"] == decision.model_dump(mode="json")


def test_bad_directories_are_one_line(parts, tmp_path) -> None:
    settings, corpus, aligner = parts
    with pytest.raises(JobError, match=r"job\.json is missing or damaged"):
        read_job(tmp_path / "nowhere")
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    with pytest.raises(DistillationError, match="output_dir"):
        prepare_job(corpus, settings=settings, aligner=aligner, output_dir=blocker / "jobs")
    assert blocker.read_text() == "kept"


def test_a_torn_line_is_cut_off(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = sealed_line({"step": 1, "tokens": 5, "time": 0.0, "metrics": {"loss": 2.0}})
    path.write_text(line + '{"step": 2, "tok')
    log = MetricsLog(path)
    log.append(1, 5, {"loss": 2.0})
    log.append(2, 9, {"loss": 1.0})
    assert [(line["step"], line["metrics"]) for line in read_metrics(path)] == [
        (1, {"loss": 2.0}),
        (2, {"loss": 1.0}),
    ]


def test_a_damaged_line_is_passed_over_with_a_warning(tmp_path, caplog) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        sealed_line({"step": step, "tokens": 5, "time": 0.0, "metrics": {"loss": 2.0}}) for step in (1, 3)
    ]
    bad = ("[]", "null", '{"step": 2}', lines[0].strip().replace("loss", "lost"), "\xff")
    path.write_bytes((lines[0] + "\n".join(bad) + "\n" + lines[1]).encode("latin-1"))
    assert [found["step"] for found in read_metrics(path)] == [1, 3]
    assert (
        "5 lines are not what was written and are passed over, first line 2" in caplog.records[0].getMessage()
    )
