"""Filling a teacher cache and training from it: the live teacher's targets, whatever is killed or damaged."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from caching_parts import fill, losses, make_parts, with_cache
from processors import TILES, VECTORS, give_processor
from safetensors.torch import load_file

from distillation.aligners.base import Aligner
from distillation.config import ObjectiveSettings, Settings, TermWeights
from distillation.corpus.corpus import Corpus, fingerprint_of
from distillation.errors import JobError
from distillation.metrics_log import read_metrics
from distillation.teachers.cache.fill import fill_cache, prepare_cache
from distillation.teachers.cache.store import CacheReader, TeacherCache
from distillation.training.job import prepare_job
from distillation.training.run import run_job

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_teacher_dir, tiny_student_dir, english_documents):
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    return make_parts(tiny_teacher_dir, tiny_student_dir, path, english_documents)


def first_half(corpus: Corpus) -> Corpus:
    train = corpus.train.select(range(len(corpus.train) // 2))
    fingerprint = fingerprint_of(train["document_id"])
    report = corpus.report.model_copy(update={"train_fingerprint": fingerprint})
    return Corpus(train, corpus.held_out, report, corpus.contract_page)


def content(directory: Path) -> dict[str, bytes]:
    """Everything that a cache keeps, by name."""
    files = sorted((directory / "shards").iterdir()) + sorted((directory / "plans").iterdir())
    return {path.name: path.read_bytes() for path in [*files, directory / "dense.safetensors"]}


def fill_in_process(request: Path) -> subprocess.Popen:
    return in_process("distillation.teachers.cache.fill", request)


def in_process(module: str, directory: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, str(directory)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


# --------------------------------------------------------------------------------- the teacher's own words


@pytest.mark.parametrize(
    ("values", "terms", "tolerance"),
    [
        ({"kind": "top_k", "k": 10_000}, TermWeights(cross_entropy=0.1, forward_kl=0.9), 2e-3),
        ({"kind": "top_k", "k": 10_000}, TermWeights(jensen_shannon=1.0), 2e-3),
        ({"kind": "sampling", "num_samples": 5_000}, TermWeights(forward_kl=1.0), 1e-2),
        ({"kind": "sampling"}, TermWeights(likelihood=1.0), 2e-3),
        ({"kind": "sampling", "num_samples": 5_000}, TermWeights(forward_kl=0.5, likelihood=0.5), 1e-2),
    ],
)
def test_a_cache_without_loss_is_the_live_teacher(
    parts: Any, tmp_path: Path, values: Any, terms: TermWeights, tolerance: float
) -> None:
    cache = fill(parts, tmp_path, terms=terms, **values)
    (live_loss, live_grad, live), (loss, grad, found) = losses(parts, cache, terms)
    assert loss == pytest.approx(live_loss, rel=tolerance)
    assert (grad - live_grad).norm() < 10 * tolerance * live_grad.norm()
    if set(terms.active) != {"likelihood"}:
        assert found["num_targets"] == live["num_targets"] > 0
        assert found["residual"] == pytest.approx(live["residual"], rel=1e-3, abs=1e-4)


def test_draws_do_not_depend_on_anything_but_the_window(parts: Any, tmp_path: Path) -> None:
    """Another plan, other neighbours in a batch: the same tokens, up to the last bit of the target."""
    one = fill(parts, tmp_path / "one", windows_per_shard=5)
    other = fill(parts, tmp_path / "other", windows_per_shard=1000)
    readers = CacheReader(one.directory), CacheReader(other.directory)
    assert readers[0].places.keys() == readers[1].places.keys()
    num_same = num = 0
    for key in readers[0].places:
        first, second = (reader.read(key) for reader in readers)
        num += len(first.num_entries_T)
        num_same += int((first.num_entries_T == second.num_entries_T).sum())
        if first.id_E.shape == second.id_E.shape:
            assert (first.id_E == second.id_E).mean() > 0.9
    assert num_same > 0.999 * num
    other_seed = fill(parts, tmp_path / "one", windows_per_shard=5, seed=1)
    assert other_seed.directory != one.directory
    assert other_seed.shards != one.shards


# -------------------------------------------------------------------------------- kills, company, damage


def test_two_processes_write_what_one_does(parts: Any, tmp_path: Path) -> None:
    settings, corpus, aligner = parts
    changed = with_cache(settings, windows_per_shard=4)
    contents = []
    for name, num_processes in (("one", 1), ("two", 2)):
        request = prepare_cache(corpus, settings=changed, aligner=aligner, output_dir=tmp_path / name)
        processes = [fill_in_process(request) for _ in range(num_processes)]
        assert [process.wait() for process in processes] == [0] * num_processes
        [directory] = (tmp_path / name).glob("sampling-*")
        contents.append(content(directory))
    assert len(contents[0]) > 10
    assert contents[0] == contents[1]


def test_killed_and_resumed_ends_with_the_same_bytes(parts: Any, tmp_path: Path) -> None:
    settings, corpus, aligner = parts
    changed = with_cache(settings, windows_per_shard=2)
    whole = prepare_cache(corpus, settings=changed, aligner=aligner, output_dir=tmp_path / "whole")
    assert fill_in_process(whole).wait() == 0
    [expected] = (tmp_path / "whole").glob("sampling-*")

    request = prepare_cache(corpus, settings=changed, aligner=aligner, output_dir=tmp_path / "killed")
    process = fill_in_process(request)
    try:
        while (
            process.poll() is None and len(list((tmp_path / "killed").glob("sampling-*/shards/*.json"))) < 3
        ):
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    [directory] = (tmp_path / "killed").glob("sampling-*")
    num_before = len(list((directory / "shards").glob("[!.]*.json")))
    assert 3 <= num_before < len(list((expected / "shards").glob("*.json")))
    cache = fill_cache(request, on_estimate=lambda line: None)
    assert cache.metrics["shards_made"] == len(cache.shards) - num_before
    kept = {name: value for name, value in content(directory).items() if not name.startswith(".")}
    assert kept == content(expected)


def test_damage_is_mended_and_nothing_else_is_touched(parts: Any, tmp_path: Path, caplog: Any) -> None:
    cache = fill(parts, tmp_path)
    before = content(cache.directory)
    paths = sorted((cache.directory / "shards").glob("*.safetensors"))
    damaged = bytearray(paths[0].read_bytes())
    damaged[-1] ^= 4
    paths[0].write_bytes(damaged)
    paths[1].with_suffix(".json").unlink()
    paths[2].with_suffix(".json").write_text("[]")
    dense = bytearray((cache.directory / "dense.safetensors").read_bytes())
    dense[-1] ^= 4
    (cache.directory / "dense.safetensors").write_bytes(dense)
    again = fill(parts, tmp_path)
    assert again.metrics["shards_made"] == 3
    assert again.digest == cache.digest
    [record] = caplog.records
    assert "dense.safetensors is not what was written; it is made anew" in record.getMessage()
    assert content(cache.directory) == before
    assert fill(parts, tmp_path).metrics["shards_made"] == 0


def test_a_damaged_request_is_one_line_and_prepared_again(
    parts: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    settings, corpus, aligner = parts
    shutil.copytree(settings.models.student.path, tmp_path / "models" / "student")
    monkeypatch.chdir(tmp_path)
    student = settings.models.student.model_copy(update={"path": "models/student"})
    models = settings.models.model_copy(update={"student": student})
    settings = with_cache(settings.model_copy(update={"models": models}))

    def prepare() -> Path:
        return prepare_cache(corpus, settings=settings, aligner=aligner, output_dir=tmp_path / "caches")

    request = prepare()
    monkeypatch.chdir("/")
    fill_cache(request, on_estimate=lambda line: None)
    monkeypatch.chdir(tmp_path)
    for name, before, after in (
        ("settings.json", b'"num_samples": 28', b'"num_samples": 29'),
        ("settings.json", b"{", b"["),
        ("decision.json", b"{", b""),
        ("inputs.json", b"corpus", b"corqus"),
        ("corpus/train.parquet", b"PAR1", b"PAR2"),
        ("aligner/aligner.json", b"prefix", b"prefiy"),
    ):
        content = (request / name).read_bytes()
        assert before in content
        (request / name).write_bytes(content.replace(before, after))
        with pytest.raises(JobError, match=r"cache request .*prepare it again"):
            fill_cache(request)
        if name != "settings.json" or after == b"[":
            assert prepare() == request
            assert (request / name).read_bytes() == content
        (request / name).write_bytes(content)
    (tmp_path / "models" / "student" / "config.json").write_text("{}")
    with pytest.raises(JobError, match=r"models\.student\.path = .*not those that the cache request"):
        fill_cache(request)


def test_a_grown_corpus_only_appends(parts: Any, tmp_path: Path) -> None:
    settings, corpus, aligner = parts
    half = fill((settings, first_half(corpus), aligner), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (half.directory / "shards").iterdir()}
    whole = fill(parts, tmp_path)
    assert whole.directory == half.directory
    assert before
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    assert half.shards.items() <= whole.shards.items()
    assert whole.metrics["shards_made"] == len(whole.shards) - len(half.shards) > 0
    again = fill((settings, first_half(corpus), aligner), tmp_path)
    assert again.digest == half.digest, "another corpus in the same cache changes no job of this one"


def test_size_and_bias_are_measured(parts: Any, tmp_path: Path) -> None:
    sampled = fill(parts, tmp_path, num_samples=28)
    finer = fill(parts, tmp_path, num_samples=200)
    likeliest = fill(parts, tmp_path, kind="top_k", k=48, num_tail_samples=0)
    with_draws = fill(parts, tmp_path, kind="top_k", k=32, num_tail_samples=16)
    for cache in (sampled, finer, likeliest, with_draws):
        size = sum(path.stat().st_size for path in (cache.directory / "shards").glob("*.safetensors"))
        assert cache.metrics["num_bytes"] == size
        assert cache.metrics["bytes_per_token"] == pytest.approx(size / cache.metrics["num_tokens"])
        assert cache.metrics["dense/positions"] == 512
    assert finer.metrics["dense/total_variation"] < sampled.metrics["dense/total_variation"] / 2
    assert likeliest.metrics["bytes_per_token"] < 200
    assert with_draws.metrics["bytes_per_token"] < 200
    assert 0 < likeliest.metrics["dense/kl"] < 5
    assert with_draws.metrics["dense/tail"] > likeliest.metrics["dense/tail"] > 0
    assert with_draws.metrics["dense/bias"] < sampled.metrics["dense/bias"]
    # This random teacher is as even as can be: the worst case of both.
    assert sampled.metrics["dense/bias"] < sampled.metrics["dense/total_variation"] / 4


# ------------------------------------------------------------------------------------------------- jobs


def test_a_job_learns_from_the_cache_without_the_teacher(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, corpus, aligner = parts
    cache = fill(parts, tmp_path / "caches")
    faster = settings.training.model_copy(update={"learning_rate": 2e-2, "evaluations": 2})
    settings = with_cache(settings).model_copy(update={"training": faster})
    job_dir = prepare_job(
        corpus, settings=settings, aligner=aligner, cache=cache, output_dir=tmp_path / "jobs"
    )
    live_dir = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=tmp_path / "jobs")
    assert job_dir != live_dir

    import distillation.models.load as models

    loaded, original = [], models.load_model

    def load(reference: Any, role: Any, **arguments: Any) -> Any:
        loaded.append(role)
        return original(reference, role, **arguments)

    monkeypatch.setattr(models, "load_model", load)
    result = run_job(job_dir, on_estimate=lambda line: None)
    assert loaded == ["student"]
    lines = read_metrics(job_dir / "metrics.jsonl")
    values = [line["metrics"]["cross_entropy"] for line in lines if "loss" in line["metrics"]]
    assert values[-1] < values[0] - 0.3
    assert any("forward_kl" in line["metrics"] and "target_share" in line["metrics"] for line in lines)
    live = run_job(live_dir, on_estimate=lambda line: None).metrics
    measure = "held_out/bits_per_byte"
    assert live[measure] == pytest.approx(result.metrics[measure], rel=0.03)
    for name in ("targets", "foretold_targets"):
        assert live[name] == result.metrics[name] > 0


def test_a_job_refuses_a_damaged_cache_and_is_mended(parts: Any, tmp_path: Path) -> None:
    settings, corpus, aligner = parts
    cache = fill(parts, tmp_path / "caches")
    short = settings.training.model_copy(update={"max_steps": 2, "evaluations": 1})
    settings = with_cache(settings).model_copy(update={"training": short})

    def prepare(filled: TeacherCache) -> Path:
        return prepare_job(
            corpus, settings=settings, aligner=aligner, cache=filled, output_dir=tmp_path / "jobs"
        )

    job_dir = prepare(cache)
    path = next((job_dir / "teacher_cache" / "shards").glob("*.safetensors"))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(JobError, match=r"damaged; run the pipeline again") as caught:
        run_job(job_dir, on_estimate=lambda line: None)
    assert "\n" not in str(caught.value)
    # What the pipeline does when it runs again.
    assert prepare(fill(parts, tmp_path / "caches")) == job_dir
    assert run_job(job_dir, on_estimate=lambda line: None).metrics["steps"] == 2

    half = fill((with_cache(parts[0]), first_half(corpus), aligner), tmp_path / "others")
    with pytest.raises(JobError, match=r"lacks .* windows; run the pipeline again"):
        run_job(prepare(half), on_estimate=lambda line: None)


@pytest.mark.slow
def test_a_killed_job_goes_on_from_the_cache_to_the_same_weights(parts: Any, tmp_path: Path) -> None:
    settings, corpus, aligner = parts
    terms = TermWeights(cross_entropy=0.1, forward_kl=0.6, likelihood=0.3)
    cache = fill(parts, tmp_path / "caches", terms=terms)
    changed = with_cache(settings, terms=terms)
    whole, killed = (
        prepare_job(corpus, settings=changed, aligner=aligner, cache=cache, output_dir=tmp_path / name)
        for name in ("whole", "killed")
    )
    assert in_process("distillation.training", whole).wait() == 0
    process = in_process("distillation.training", killed)
    try:
        while process.poll() is None and not any(
            line["step"] >= 7 for line in read_metrics(killed / "metrics.jsonl")
        ):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "student").exists()
    assert in_process("distillation.training", killed).wait() == 0
    expected = load_file(whole / "student" / "model.safetensors")
    found = load_file(killed / "student" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_what_a_cache_is_made_of_names_it(parts: Any, tmp_path: Path) -> None:
    settings, corpus, aligner = parts

    def name(changed: Settings, used: Aligner = aligner) -> str:
        request = prepare_cache(corpus, settings=changed, aligner=used, output_dir=tmp_path)
        from distillation.teachers.cache.fill import _Filling

        return _Filling(request).store.directory.name

    base = name(with_cache(settings))
    assert base == name(with_cache(settings, windows_per_shard=9, output_dir="elsewhere", k=5))
    longer = settings.training.model_copy(update={"num_epochs": 2.0, "learning_rate": 1e-4})
    assert base == name(with_cache(settings).model_copy(update={"training": longer, "seed": 5}))
    edited = copy.copy(aligner)
    edited.tables = {key: table.clone() for key, table in aligner.tables.items()}
    next(iter(edited.tables.values()))[0] += 1
    warmer = ObjectiveSettings(temperature=2.0)
    others = {
        name(with_cache(settings, num_samples=29)),
        name(with_cache(settings, seed=1)),
        name(with_cache(settings, kind="top_k")),
        name(with_cache(settings, terms=TermWeights(forward_kl=1.0, likelihood=1.0))),
        name(with_cache(settings).model_copy(update={"objective": warmer})),
        name(with_cache(settings), edited),
    }
    assert len(others) == 6
    assert base not in others


def test_caches_of_two_formats_are_two(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by two processors in one folder: nothing of one is ever taken for the other's."""
    from distillation.teachers.cache.fill import _Filling

    settings, corpus, aligner = parts

    def prepare() -> Path:
        return prepare_cache(corpus, settings=with_cache(settings), aligner=aligner, output_dir=tmp_path)

    give_processor(monkeypatch, TILES)
    tiled = prepare()
    folder = _Filling(tiled).store.directory
    assert json.loads((folder / "identity.json").read_text())["decision"]["teacher_dtype"] == "bfloat16"
    give_processor(monkeypatch, VECTORS)
    plain = prepare()
    assert plain != tiled
    assert _Filling(plain).store.directory != folder
    with pytest.raises(JobError, match=r"begun with bfloat16 by amx, .* prepare the cache here") as caught:
        fill_cache(tiled)
    assert "\n" not in str(caught.value)
