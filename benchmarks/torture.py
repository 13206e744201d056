"""What survives what: kills, two at once, full disks, dead servers, flipped bits, signals; one table.

    python -m benchmarks.torture [--only job cache ...] [--kills 25] [--share quick] [--work DIR]

Everything is really done, to the embedded pair on small inputs, and compared with a run nobody disturbed: the
same weights to the bit, each point of a log once. Exit code 1 if anything was lost, doubled or wrong.
Children are forked from a server that has loaded the libraries, so that a start costs a second; what a signal
does is tried on the documented commands themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 300.0
"""Seconds after which a child that should end has hung."""
UNCOMPARED = frozenset({"tokens_per_second", "memory_mb"})
"""Figures of a log that no two runs share."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_LOGGING_COLORS_DISABLED": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "120",
    "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",  # a killed child leaves its semaphores to it
    "PYTHONPATH": str(REPOSITORY),
}


# ------------------------------------------------------------------------------------------- the record


@dataclass
class Row:
    """One line of the table: what was tried, and how it went."""

    part: str
    what: str
    tries: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    untold: int = 0
    """Refusals that are no single line, hangs, and exit codes that do not say what happened."""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, fault: Fault) -> None:
        """Count one fault and keep what it was."""
        setattr(self, fault.kind, getattr(self, fault.kind) + 1)
        self.notes.append(f"{fault.kind}: {fault.what}")

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.wrong or self.untold)


@dataclass(frozen=True)
class Fault:
    """Something that should not have happened."""

    kind: str
    """`lost`, `doubled`, `wrong` or `untold`."""
    what: str


class SkippedError(Exception):
    """This machine cannot do it; the message says why."""


# -------------------------------------------------------------------------------------------- processes


def _child(command: Callable[..., int], arguments: Sequence[Any], log: str, folder: str) -> None:
    """Run a command in a process group of its own, its output appended to a file."""
    os.setsid()
    os.chdir(folder)
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(command(*arguments))


def train(job_dir: str) -> int:
    """`python -m distillation.training JOB_DIR`."""
    from distillation.training.__main__ import main

    return main([job_dir])


def prepare(raw: str, folder: str) -> int:
    """Write a job, or with `cache` a request for one, from raw settings as JSON; print its path last."""
    from distillation.aligners.build import build_aligner
    from distillation.config import parse_settings
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_pair
    from distillation.teachers.cache.fill import prepare_cache
    from distillation.training.job import prepare_job

    settings: Any = parse_settings(json.loads(raw))
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner(settings.alignment.strategy, *tokenizers.values(), **rows)
    make = prepare_job if settings.cache is None else prepare_cache
    print(make(corpus, settings=settings, aligner=aligner, output_dir=folder), flush=True)
    return 0


def fill(request: str) -> int:
    """`python -m distillation.teachers.cache.fill REQUEST_DIR`."""
    from distillation.teachers.cache.fill import main

    return main([request])


def pipeline(name: str, config: str, *overrides: str) -> int:
    """`python -m pipelines.NAME -c FILE ...`."""
    from importlib import import_module

    from pipelines.champion import ACTIONS
    from pipelines.command import run_command

    module = import_module(f"pipelines.{name}")
    actions = ACTIONS if name == "promotion" else None
    return run_command(getattr(module, f"{name}_pipeline"), ["-c", config, *overrides], actions)


def register(folder: str) -> int:
    """`python -m stacks.local`."""
    from stacks.local import main

    os.chdir(folder)
    return main([])


def train_recorded(job_dir: str, uri: str) -> int:
    """Train a job while its log goes to an MLflow server."""
    from distillation.training.run import run_job
    from tracking.forwarder import MetricsForwarder
    from tracking.runs import RunSpec

    spec = RunSpec(Path(job_dir).name, "torture")
    with MetricsForwarder(Path(job_dir), uri=uri, experiment="torture", run=spec, interval=0.2):
        run_job(job_dir)
    return 0


def send_rest(folder: str, uri: str) -> int:
    """What the next start of a pipeline does first."""
    from tracking.forwarder import send_remaining

    send_remaining(Path(folder), uri)
    return 0


class Process:
    """A child, its log and how it ended."""

    context: Any = None

    def __init__(self, command: Callable[..., int], *arguments: Any, log: Path, folder: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.begin = log, log.stat().st_size if log.exists() else 0
        self.started = time.monotonic()
        self.process = self.context.Process(
            target=_child, args=(command, [str(one) for one in arguments], str(log), str(folder))
        )
        self.process.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return bool(self.process.is_alive())

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most so long."""
        self.process.join(seconds)

    def kill(self) -> bool:
        """Kill the child and its children as a power cut would; False if it had ended."""
        if not self.alive:
            return False
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            self.process.kill()
        self.process.join()
        return bool(self.process.exitcode == -signal.SIGKILL)

    def end(self, limit: float = LIMIT) -> int:
        """Wait for the end and return the exit code; one that hangs is killed."""
        self.process.join(limit)
        if self.alive:
            self.kill()
            return -1
        return int(self.process.exitcode)

    @property
    def output(self) -> str:
        """What it printed."""
        return self.log.read_bytes()[self.begin :].decode(errors="replace") if self.log.exists() else ""

    def complaint(self) -> Fault | None:
        """Return what is wrong with how it ended: a hang, a traceback, more than a line."""
        if self.process.exitcode == 0:
            return None
        return _complaint(self.process.exitcode, self.output)


def _complaint(code: int | None, output: str) -> Fault | None:
    """Return what is wrong with a refusal; None where it is a line that names no file of ours."""
    last = output.strip().splitlines()[-1:] or [""]
    if code is None or code < 0:
        return Fault("untold", f"hung or was ended by signal {code}: {last[0][:120]}")
    if "Traceback (most recent call last)" in output:
        return Fault("untold", f"traceback: {last[0][:160]}")
    if "rror" not in output:
        return Fault("untold", f"exit code {code} without a line: {last[0][:120]}")
    return None


def ended_well(row: Row, process: Process, what: str, or_says: str | None = None) -> bool:
    """Wait for a start that has to succeed, or to say in its refusal that there is nothing left to do."""
    code = process.end()
    if code == 0 or (code == 1 and or_says is not None and or_says in process.output):
        return True
    fault = process.complaint() or Fault("untold", process.output.strip().splitlines()[-1][:160])
    row.add(Fault(fault.kind, f"{what}: exit code {code}, {fault.what}"))
    return False


# --------------------------------------------------------------------------------------------- the bench


class Bench:
    """The inputs, made once, and what an undisturbed run makes of them."""

    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        self.work, self.options = work, options
        self.random = random.Random(options.seed)
        self.counter = 0

    @property
    def is_quick(self) -> bool:
        """Whether only a few points are asked for."""
        return bool(self.options.share == "quick")

    def fresh(self, name: str) -> Path:
        """Return a new folder."""
        self.counter += 1
        folder = self.work / name / f"{self.counter:04d}"
        folder.mkdir(parents=True)
        return folder

    def raw(self, **changes: Any) -> dict[str, Any]:
        """Return raw settings of a small pipeline."""
        steps = 12 if self.is_quick else 30
        raw: dict[str, Any] = {
            "corpus": {
                "sources": ["documentation"],
                "max_train_bytes": 120_000,
                "max_held_out_bytes": 20_000,
            },
            "models": {
                "teacher": {"path": self.options.teacher, "dtype": "float32"},
                "student": {"path": self.options.student},
                "device": "cpu",
            },
            "objective": {"gradient_shares": 0},
            "training": {"max_steps": steps, "batch_size": 2, "max_length": 64, "evaluations": 6},
            "evaluation": {
                "controls": [],
                "max_length": 64,
                "stride": 48,
                "tasks": [],
                "prompts": ["Return"],
                "num_new_tokens": 4,
            },
            "tracking": {"experiment": "torture", "system_metrics": False},
        }
        return raw | changes

    def prepare(self, folder: Path, **changes: Any) -> Path:
        """Return a job or a request for a cache, made by a child, so that this process stays small."""
        process = self.start(prepare, json.dumps(self.raw(**changes)), folder)
        if process.end() != 0:
            raise SystemExit(f"it cannot be prepared:\n{process.output[-3000:]}")
        return Path(process.output.strip().splitlines()[-1])

    @cached_property
    def prepared(self) -> Path:
        """A job that nobody has started."""
        return self.prepare(self.work / "prepared")

    def job(self, source: Path | None = None, name: str = "jobs") -> Path:
        """Return a copy of a job, by default of one that nobody has started, under its own name."""
        source = source or self.prepared
        place = self.fresh(name) / source.name
        shutil.copytree(source, place, symlinks=True)
        return place

    @cached_property
    def finished(self) -> Path:
        """A job that nobody disturbed, and how long it took."""
        place = self.job(name="reference")
        process = self.start(train, place)
        if process.end() != 0:
            raise SystemExit(f"the undisturbed job fails:\n{process.output}")
        self.job_seconds = process.seconds
        return place

    @cached_property
    def request(self) -> Path:
        """A request for a cache that nobody has filled."""
        return self.prepare(self.work / "caches", cache={"windows_per_shard": 32})

    def copied_request(self) -> Path:
        """Return a request of its own, in a folder of its own."""
        place = self.fresh("cache") / "requests" / self.request.name
        shutil.copytree(self.request, place)
        return place

    @cached_property
    def filled(self) -> Path:
        """The request of a cache that nobody disturbed."""
        place = self.copied_request()
        process = self.start(fill, place)
        if process.end() != 0:
            raise SystemExit(f"the undisturbed cache fails:\n{process.output}")
        self.cache_seconds = process.seconds
        return place

    @cached_property
    def pipeline_points(self) -> int:
        """Points in MLflow of a student that nobody disturbed."""
        return _undisturbed(self, "distillation", self.raw())[1]

    def start(self, command: Callable[..., int], *arguments: Any, folder: Path | None = None) -> Process:
        """Start a child in `folder`."""
        place = folder or self.work
        return Process(command, *arguments, log=place / "log.txt", folder=place)


# ---------------------------------------------------------------------------------------- what is right


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def points_of(job: Path) -> Counter[tuple[int, str, float]]:
    """Return the points of a log, less those that no two runs share."""
    points: Counter[tuple[int, str, float]] = Counter()
    for line in (job / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry["metrics"].items():
            if name not in UNCOMPARED:
                points[entry["step"], name, value] += 1
    return points


def compare_jobs(job: Path, reference: Path) -> Iterator[Fault]:
    """Yield what a job that was disturbed lacks, has twice, or has otherwise."""
    student = {path.name for path in (job / "student").glob("*")} if (job / "student").is_dir() else set()
    for path in sorted((reference / "student").iterdir()):
        if path.name not in student:
            yield Fault("lost", f"student/{path.name}")
        elif digest_of_file(job / "student" / path.name) != digest_of_file(path):
            yield Fault("wrong", f"student/{path.name} has other bytes")
    try:
        found, wanted = points_of(job), points_of(reference)
    except (OSError, ValueError, KeyError) as error:
        yield Fault("wrong", f"metrics.jsonl: {error}")
        return
    names = Counter({(step, name): 0 for step, name, _ in found})
    for (step, name, _), count in found.items():
        names[step, name] += count
    lost = {(step, name) for step, name, _ in wanted} - names.keys()
    added = names.keys() - {(step, name) for step, name, _ in wanted}
    if lost:
        yield Fault("lost", f"{len(lost)} points, such as {sorted(lost)[0]}")
    if added:
        yield Fault(
            "wrong", f"{len(added)} points that the undisturbed job has not, such as {sorted(added)[0]}"
        )
    doubled = [one for one, count in names.items() if count > 1]
    if doubled:
        yield Fault("doubled", f"{len(doubled)} points, such as {sorted(doubled)[0]}")
    if not (lost or added or doubled) and found != wanted:
        yield Fault("wrong", f"{len(wanted - found)} points have other values")


def cache_folder(request: Path) -> Path:
    """Return the folder of the cache that a request fills."""
    return next(path.parent for path in request.parents[1].glob("*/identity.json"))


def compare_caches(request: Path, reference: Path) -> Iterator[Fault]:
    """Yield what a cache that was disturbed lacks or has otherwise."""
    mine, other = cache_folder(request), cache_folder(reference)
    if mine.name != other.name:
        yield Fault("wrong", "another name")
    for path in sorted(other.rglob("*")):
        name = path.relative_to(other)
        if not path.is_file() or path.name.startswith(".") or path.name == "locks":
            continue
        if not (mine / name).exists():
            yield Fault("lost", str(name))
        elif digest_of_file(mine / name) != digest_of_file(path):
            yield Fault("wrong", f"{name} has other bytes")
    extra = {
        path.name for path in (mine / "shards").glob("[!.]*") if not (other / "shards" / path.name).exists()
    }
    if extra:
        yield Fault("doubled", f"{len(extra)} shards that the undisturbed cache has not")


# ------------------------------------------------------------------------------------------ kill -9


def kill_and_end(
    row: Row,
    bench: Bench,
    begin: Callable[[], Process],
    *,
    kills: int,
    duration: float,
    what: str,
    or_says: str | None = None,
) -> int:
    """Kill starts at random instants, up to `kills` of them, then let one end; return the number of kills."""
    done = 0
    for _ in range(kills):
        process = begin()
        process.wait(bench.random.uniform(0.0, duration))
        if process.kill():
            done += 1
            continue
        ended_well(row, process, what, or_says)
        return done
    ended_well(row, begin(), f"{what}, the start after {done} kills", or_says)
    return done


def torture_job(bench: Bench) -> Iterator[Row]:
    """Kill trainings at random instants and inside of every window in which something is half done."""
    reference, row = bench.finished, Row("job", "kill -9 at random instants")
    wanted = 1 if bench.is_quick else bench.options.kills
    while row.tries < wanted:
        job = bench.job()
        begin = lambda job=job: bench.start(train, job, folder=job.parent)  # noqa: E731
        num = min(bench.random.randint(1, 5), wanted - row.tries)
        row.tries += kill_and_end(
            row, bench, begin, kills=num, duration=bench.job_seconds, what=job.parent.name
        )
        for fault in compare_jobs(job, reference):
            row.add(fault)
    yield row
    if bench.is_quick:
        return
    windows = {
        "kill -9 while a checkpoint is written": _writes_checkpoint,
        "kill -9 after the last checkpoint": _has_last_checkpoint,
        "kill -9 while student/ is written": _writes_student,
    }
    for what, sees in windows.items():
        row = Row("job", what)
        for _ in range(max(3, bench.options.kills // 5)):
            job = bench.job()
            for _ in range(3):  # the same window again and again
                row.tries += kill_when(lambda job=job, sees=sees: sees(job), bench, job)
            ended_well(row, bench.start(train, job, folder=job.parent), job.parent.name)
            for fault in compare_jobs(job, reference):
                row.add(fault)
        yield row
    for dtype in ("float32", "bfloat16"):
        yield _kill_one_job(bench, dtype)


def _kill_one_job(bench: Bench, teacher_dtype: str) -> Row:
    """Kill one job at each stretch of its way, every other start beside a process that takes all cores."""
    row = Row("job", f"one job, teacher in {teacher_dtype}, killed again and again, under load")
    kills = 4 * bench.options.kills
    raw = bench.raw()
    prepared = bench.prepare(
        bench.fresh("one"),
        models=raw["models"] | {"teacher": raw["models"]["teacher"] | {"dtype": teacher_dtype}},
        training=raw["training"] | {"max_steps": 3 * kills, "evaluations": 3 * kills // 2},
    )
    reference, job = bench.job(prepared, "one"), bench.job(prepared, "one")
    if not ended_well(row, bench.start(train, reference, folder=reference.parent), "the undisturbed job"):
        return row
    while row.tries < kills:
        last = _checkpoints(job)[-1:]
        step = (int(last[0].name[11:]) if last else 0) + bench.random.randint(0, 5)
        load = contextlib.nullcontext() if row.tries % 2 else _busy_cores()
        with load:
            killed = kill_when(lambda step=step: _last_step(job) >= step, bench, job)
        if not killed:
            row.add(Fault("untold", f"it ended by itself after {row.tries} kills"))
            break
        row.tries += 1
    ended_well(row, bench.start(train, job, folder=job.parent), "the last start")
    for fault in compare_jobs(job, reference):
        row.add(fault)
    return row


def _last_step(job: Path) -> int:
    """Return the last step that a job has written to its log; 0 before the first."""
    lines = _read(job / "metrics.jsonl").splitlines()
    return int(json.loads(lines[-1])["step"]) if lines else 0


@contextlib.contextmanager
def _busy_cores() -> Iterator[None]:
    """Keep every core busy with processes of our own."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def kill_when(sees: Callable[[], bool], bench: Bench, job: Path) -> int:
    """Start a training and kill it as soon as `sees` is true; return 1 if it was."""
    process = bench.start(train, job, folder=job.parent)
    while process.alive and process.seconds < LIMIT:
        with contextlib.suppress(OSError, ValueError):
            if sees():
                time.sleep(bench.random.uniform(0.0, 0.01))
                return int(process.kill())
        time.sleep(0.0005)
    process.end(0.0)
    return 0


def _checkpoints(job: Path) -> list[Path]:
    """Return the checkpoints that are in their place, oldest first."""
    found = [path for path in (job / "checkpoints").glob("checkpoint-*") if path.name[11:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _writes_checkpoint(job: Path) -> bool:
    from distillation.training.checkpoints import draft_folder

    return any(draft_folder(job / "checkpoints").glob("checkpoint-*"))


def _has_last_checkpoint(job: Path) -> bool:
    found = _checkpoints(job)
    steps = json.loads((job / "job.json").read_text())["training"]["max_steps"]
    return bool(found) and int(found[-1].name[11:]) >= steps and _state(job) != "finished"


def _writes_student(job: Path) -> bool:
    drafts = [*job.glob(".student*"), *job.glob("student")]
    return bool(drafts) and _state(job) != "finished"


def _state(job: Path) -> str:
    return str(json.loads((job / "status.json").read_text())["state"])


def torture_cache(bench: Bench) -> Iterator[Row]:
    """Kill processes that fill a cache."""
    reference, row = bench.filled, Row("cache", "kill -9 at random instants")
    wanted = 2 if bench.is_quick else bench.options.kills
    while row.tries < wanted:
        request = bench.copied_request()
        folder = request.parents[1]
        begin = lambda request=request, folder=folder: bench.start(fill, request, folder=folder)  # noqa: E731
        num = min(bench.random.randint(1, 5), wanted - row.tries)
        row.tries += kill_and_end(
            row, bench, begin, kills=num, duration=bench.cache_seconds, what=folder.name
        )
        for fault in compare_caches(request, reference):
            row.add(fault)
    yield row


# ---------------------------------------------------------------------------------- two at the same time


def torture_two(bench: Bench) -> Iterator[Row]:
    """Two processes on everything: each ends well or leaves with one line, and the result is one run's."""
    row = Row("two", "two processes on one job")
    reference = bench.finished
    for _ in range(1 if bench.is_quick else 8):
        job = bench.job()
        both(row, bench, job.parent, train, job)
        for fault in compare_jobs(job, reference):
            row.add(fault)
    yield row
    if bench.is_quick:
        return
    row = Row("two", "two processes on one cache, one of them killed in half of the tries")
    for attempt in range(6):
        request = bench.copied_request()
        both(row, bench, request.parents[1], fill, request, kills_one=bool(attempt % 2))
        for fault in compare_caches(request, bench.filled):
            row.add(fault)
    yield row
    row = Row("two", "two first starts on a store that does not exist")
    for _ in range(3):
        with store(bench, registered=False) as place:
            both(row, bench, place, register, place)
            ended_well(row, bench.start(register, place, folder=place), "a third start")
    yield row
    row, points = Row("two", "two pipelines at once on a new store"), bench.pipeline_points
    for _ in range(2):
        with store(bench, registered=False) as place:
            config = write_config(place, bench.raw())
            both(row, bench, place, pipeline, "distillation", config)
            ended_well(row, bench.start(pipeline, "distillation", config, folder=place), "a third start")
            for fault in check_records(place, points):
                row.add(fault)
    yield row
    row = Row("two", "two promotions at once")
    with store(bench) as place:
        prepare_promotion(bench, place)
        for number in range(3):
            config = write_promotion(place, f"both-{number}")
            both(row, bench, place, pipeline, "promotion", config)
            for fault in check_promotion(place, f"both-{number}"):
                row.add(fault)
    yield row


def both(
    row: Row,
    bench: Bench,
    folder: Path,
    command: Callable[..., int],
    *arguments: Any,
    kills_one: bool = False,
) -> None:
    """Start a command twice at once; then, where neither ended well, once more."""
    first = Process(command, *arguments, log=folder / "first.txt", folder=folder)
    time.sleep(bench.random.choice([0.0, 0.0, 0.3, 1.0]))
    second = Process(command, *arguments, log=folder / "second.txt", folder=folder)
    if kills_one:
        first.wait(bench.random.uniform(0.0, 3.0))
        first.kill()
    codes = {}
    for process in (first, second):
        codes[process] = process.end()
        fault = process.complaint()
        if fault is not None and not (kills_one and process is first):
            row.add(fault)
    if 0 not in codes.values():
        ended_well(row, bench.start(command, *arguments, folder=folder), "the start after both")
    row.tries += 1


# -------------------------------------------------------------------------------------- disks


@contextlib.contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """Mount a small file system in memory.

    Raises:
        SkippedError: this user or this machine may not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SkippedError(f"mount -t tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Change the options of a mounted disk."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def torture_disk(bench: Bench) -> Iterator[Row]:
    """A disk that is full, then has room; one that can only be read, then written."""
    reference = bench.finished
    begin, end = size_of(bench.prepared), size_of(reference)
    row = Row("disk", "job on a full disk, then with room")
    for share in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
        folder = bench.fresh("disk") / "small"
        with small_disk(folder, begin + 2**16 + int(share * (end - begin))):
            job = folder / reference.name
            shutil.copytree(bench.prepared, job)
            refused(row, Process(train, job, log=folder.parent / "log.txt", folder=folder.parent))
            remount(folder, "size=1g")
            process = Process(train, job, log=folder.parent / "log.txt", folder=folder.parent)
            ended_well(row, process, f"{share:.0%} of the room, with more")
            for fault in compare_jobs(job, reference):
                row.add(fault)
        row.tries += 1
    yield row
    row = Row("disk", "job on a read-only disk, then on a writable one")
    for after in (0.0, 0.5):
        folder = bench.fresh("disk") / "small"
        with small_disk(folder, 2**30):
            job = folder / reference.name
            shutil.copytree(bench.prepared, job)
            if after:
                process = Process(train, job, log=folder.parent / "log.txt", folder=folder.parent)
                process.wait(after * bench.job_seconds)
                process.kill()
            remount(folder, "ro")
            refused(row, Process(train, job, log=folder.parent / "log.txt", folder=folder.parent))
            remount(folder, "rw")
            process = Process(train, job, log=folder.parent / "log.txt", folder=folder.parent)
            ended_well(row, process, "writable again")
            for fault in compare_jobs(job, reference):
                row.add(fault)
        row.tries += 1
    yield row
    row = Row("disk", "cache on a full and on a read-only disk, then with room")
    size = size_of(cache_folder(bench.filled))
    for share in (0.1, 0.5, 0.9, None):
        folder = bench.fresh("disk") / "small"
        room = 2**30 if share is None else size_of(bench.request) + int(share * size)
        with small_disk(folder, room):
            request = folder / "requests" / bench.request.name
            shutil.copytree(bench.request, request)
            if share is None:
                remount(folder, "ro")
            refused(row, Process(fill, request, log=folder.parent / "log.txt", folder=folder.parent))
            remount(folder, "rw,size=1g")
            process = Process(fill, request, log=folder.parent / "log.txt", folder=folder.parent)
            ended_well(row, process, "with room")
            for fault in compare_caches(request, bench.filled):
                row.add(fault)
        row.tries += 1
    yield row
    row = Row("disk", "pipeline whose store is full or read-only, then with room")
    points = bench.pipeline_points
    for option in ("size=3m", "ro"):
        with store(bench, disk=2**30) as place:
            config = write_config(place, bench.raw())
            room = option if option == "ro" else f"size={size_of(place) + 3 * 2**20}"
            remount(place, room)
            log = place.parent / f"{place.name}.txt"
            refused(row, Process(pipeline, "distillation", config, log=log, folder=place))
            remount(place, "rw,size=1g")
            process = Process(pipeline, "distillation", config, log=log, folder=place)
            if ended_well(row, process, f"with room after {option}"):
                for fault in check_records(place, points):
                    row.add(fault)
        row.tries += 1
    yield row


def refused(row: Row, process: Process) -> None:
    """Wait for a start that cannot succeed: one line, and an exit code that says so."""
    code = process.end()
    fault = Fault("untold", "exit code 0 though it could not write") if code == 0 else process.complaint()
    if fault is not None:
        row.add(fault)


# ------------------------------------------------------------------------------------------ damage


def torture_damage(bench: Bench) -> Iterator[Row]:
    """One bit, and a truncation, in every file that is read back: told, or mended to the same bits."""
    reference = bench.finished
    half = bench.job(name="damage")
    while len(_checkpoints(half)) < 2 or not (half / "metrics.jsonl").exists():
        process = bench.start(train, half, folder=half.parent)
        while process.alive and len(_checkpoints(half)) < 3:
            time.sleep(0.001)
        process.kill()
    yield from _damage_job(bench, half, reference, "of a job on its way")
    if bench.is_quick:
        return
    yield from _damage_job(bench, reference, reference, "of a finished job")
    row = Row("damage", "a bit, a truncation in every file of a cache")
    source = bench.filled.parents[1]
    for name in files_of(source, per_folder=2):
        for harm in (flip, truncate):
            place = bench.fresh("damage") / "cache"
            shutil.copytree(source, place)
            harm(place / name, bench.random)
            request = place / "requests" / bench.request.name
            process = bench.start(fill, request, folder=place)
            code = process.end()
            if code == 0:
                for fault in compare_caches(request, bench.filled):
                    row.add(Fault(fault.kind, f"{harm.__name__} {name}: {fault.what}"))
            elif (fault := process.complaint()) is not None:
                row.add(Fault(fault.kind, f"{harm.__name__} {name}: {fault.what}"))
            row.tries += 1
    yield row


def _damage_job(bench: Bench, source: Path, reference: Path, what: str) -> Iterator[Row]:
    row = Row("damage", f"a bit, a truncation in every file {what}")
    names = files_of(source)
    if bench.is_quick:
        names = [name for name in names if name.name == "model.safetensors"][-1:]
    for name in names:
        for harm in (flip, truncate):
            job = bench.job(source, "damage")
            harm(job / name, bench.random)
            process = bench.start(train, job, folder=job.parent)
            code = process.end()
            if code == 0:
                faults = list(compare_jobs(job, reference))
            else:
                fault = process.complaint()
                faults = [] if fault is None else [fault]
            for fault in faults:
                row.add(Fault(fault.kind, f"{harm.__name__} {name}: {fault.what}"))
            row.tries += 1
            shutil.rmtree(job.parent)
    yield row


def files_of(folder: Path, per_folder: int | None = None) -> list[Path]:
    """Return the files below a folder that are read back; of many alike, the first of each folder."""
    found = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size and not path.name.startswith(".") and path.name != "log.txt"
    ]
    if per_folder is None:
        return found
    seen: Counter[tuple[Path, str]] = Counter()
    kept = []
    for name in found:
        seen[name.parent, name.suffix] += 1
        if seen[name.parent, name.suffix] <= per_folder:
            kept.append(name)
    return kept


def flip(path: Path, chance: random.Random) -> None:
    """Turn one bit over, as a disk does: in the file's own copy, whatever links to it."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.unlink()
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: chance.randrange(len(content))])


# ------------------------------------------------------------------------------------------- signals


def torture_signals(bench: Bench) -> Iterator[Row]:
    """Ctrl-C and SIGTERM at every stage: a line, the exit code, nothing lost."""
    reference = bench.finished
    stages: dict[str, Callable[[Path], bool]] = {
        "as it starts": lambda job: True,
        "as it loads": lambda job: (job / "status.json").exists(),
        "as it trains": lambda job: (job / "metrics.jsonl").exists(),
        "as it writes a checkpoint": _writes_checkpoint,
        "after the last checkpoint": _has_last_checkpoint,
        "as it writes the student": _writes_student,
    }
    row = Row("signals", "SIGINT, SIGTERM at every stage of a job")
    for stage, sees in stages.items():
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            job = bench.job()
            command = ["distillation.training", str(job)]
            delay = 0.3 if stage == "as it starts" else 0.0
            what = f"{number.name} {stage}"
            tell(row, command, job.parent, lambda job=job, sees=sees: sees(job), number, code, delay, what)
            ended_well(row, bench.start(train, job, folder=job.parent), f"the start after {what}")
            for fault in compare_jobs(job, reference):
                row.add(Fault(fault.kind, f"{what}: {fault.what}"))
            row.tries += 1
    yield row
    row = Row("signals", "SIGINT, SIGTERM at every step of a pipeline")
    steps = ("load_corpus", "probe_models", "build_aligner", "distill_student_distilled", "evaluate_student")
    with store(bench) as place:
        for step in steps:
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
                config = write_config(place, bench.raw(seed=row.tries + 1, corpus=_corpus(bench, row.tries)))
                log, what = place / f"{row.tries}.txt", f"{number.name} in {step}"
                command = ["pipelines.distillation", "-c", str(config)]
                sees = lambda log=log, step=step: f"{step} has started" in _read(log)  # noqa: E731
                tell(row, command, place, sees, number, code, 0.2, what, log)
                ended_well(
                    row,
                    bench.start(pipeline, "distillation", config, folder=place),
                    f"the start after {what}",
                )
                row.tries += 1
        for fault in check_records(place, None):
            row.add(fault)
    yield row


def _corpus(bench: Bench, number: int) -> dict[str, Any]:
    """Return settings of a corpus that no earlier run has left in the store's cache."""
    return {**bench.raw()["corpus"], "max_train_bytes": 120_000 + number}


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def tell(
    row: Row,
    command: Sequence[str],
    folder: Path,
    sees: Callable[[], bool],
    number: signal.Signals,
    code: int,
    delay: float,
    what: str,
    log: Path | None = None,
) -> None:
    """Run a documented command, send it a signal as soon as `sees` is true, and judge how it ends."""
    log = log or folder / "signal.txt"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=stream, stderr=stream, start_new_session=True
        )
    begin = time.monotonic()
    while process.poll() is None and time.monotonic() - begin < LIMIT:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if sees():
                break
        time.sleep(0.0005)
    time.sleep(delay)
    if process.poll() is not None:
        row.notes.append(f"note: {what}: it had ended before")
        return
    process.send_signal(number)
    begin = time.monotonic()
    try:
        found = process.wait(60.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        row.add(Fault("untold", f"{what}: it did not end within 60 s"))
        return
    seconds = time.monotonic() - begin
    if found == 0:  # the work was done when the signal came
        return
    as_it_starts = "as it starts" in what and found == -number  # before any line of ours has run
    if found != code and not as_it_starts:
        row.add(Fault("untold", f"{what}: exit code {found}, not {code}"))
    elif "Traceback (most recent call last)" in _read(log) and not as_it_starts:
        row.add(Fault("untold", f"{what}: a traceback"))
    elif seconds > 10.0:
        row.add(Fault("untold", f"{what}: it ended after {seconds:.0f} s"))


# -------------------------------------------------------------------------------- pipelines


@contextlib.contextmanager
def store(bench: Bench, *, registered: bool = True, disk: int | None = None) -> Iterator[Path]:
    """Yield a folder with a ZenML and MLflow state of its own, which children use while the block runs."""
    place = bench.fresh("store") / "place"
    place.mkdir()
    with contextlib.ExitStack() as stack:
        if disk is not None:
            stack.enter_context(small_disk(place, disk))
        os.environ["ZENML_CONFIG_PATH"] = str(place / "zenml")
        Process.context = new_context()  # its children take the environment from the server they fork from
        try:
            if registered:
                process = bench.start(register, place, folder=place)
                if process.end() != 0:
                    raise SystemExit(f"the store cannot be made:\n{process.output}")
            yield place
        finally:
            del os.environ["ZENML_CONFIG_PATH"]
            Process.context = new_context()


def write_config(place: Path, raw: dict[str, Any], name: str = "config.yaml") -> Path:
    """Write a file of a pipeline."""
    path = place / name
    path.write_text(yaml.safe_dump({"parameters": {"settings": raw}}))
    return path


def database(place: Path) -> Path:
    """Return the MLflow store of a place."""
    return next((place / "zenml").rglob("mlflow.db"))


def recorded_points(place: Path) -> tuple[Counter[tuple[str, int, float]], list[str], int]:
    """Return the points of all students' runs, the runs that are not ended, and the runs in all."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(database(place), timeout=30)) as connection:
        query = (
            "select m.run_uuid, m.key, m.step from metrics m join tags t on t.run_uuid = m.run_uuid "
            "where t.key = 'role' and t.value = 'student'"
        )
        points = Counter((run, key, step) for run, key, step in connection.execute(query))
        states = connection.execute("select name, status from runs").fetchall()
    running = [name for name, status in states if status == "RUNNING"]
    return points, running, len(states)


def unfinished_steps(place: Path) -> int:
    """Return how many pipeline runs and steps ZenML still calls running."""
    import sqlite3

    path = next((place / "zenml").rglob("zenml.db"))
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        num = 0
        for table in ("pipeline_run", "step_run"):
            query = (
                f"select count(*) from {table} where status in ('running', 'initializing', 'provisioning')"
            )
            num += connection.execute(query).fetchone()[0]
    return int(num)


def check_records(place: Path, reference: int | None) -> Iterator[Fault]:
    """Yield what stands twice, is missing, or still runs after the last start of pipelines in a store."""
    points, running, _ = recorded_points(place)
    doubled = [one for one, count in points.items() if count > 1]
    if doubled:
        yield Fault("doubled", f"{len(doubled)} points in MLflow, such as {doubled[0][1:]}")
    if running:
        yield Fault("wrong", f"{len(running)} runs RUNNING in MLflow, such as {running[0]}")
    if reference is not None:
        per_run = Counter(run for run, _, _ in points)
        if not per_run or max(per_run.values()) != reference:
            most = max(per_run.values(), default=0)
            yield Fault("lost", f"the fullest student's run in MLflow has {most} points, not {reference}")
    num = unfinished_steps(place)
    if num:
        yield Fault("wrong", f"{num} runs or steps are running in ZenML")


def _undisturbed(bench: Bench, name: str, raw: dict[str, Any]) -> tuple[dict[str, str], int, float]:
    """Run a pipeline in peace; return its students' digests, the points of a student's run, the seconds."""
    with store(bench) as place:
        process = bench.start(pipeline, name, write_config(place, raw), folder=place)
        if process.end() != 0:
            raise SystemExit(f"the undisturbed {name} fails:\n{process.output[-3000:]}")
        points, _, _ = recorded_points(place)
        most = max(Counter(run for run, _, _ in points).values(), default=0)
        return students_of(place), most, process.seconds


def students_of(place: Path) -> dict[str, str]:
    """Return the digest of the weights of each student, by the name of its job."""
    return {
        path.parents[1].name: digest_of_file(path)
        for path in sorted(place.glob("outputs/**/student/model.safetensors"))
    }


def torture_pipeline(bench: Bench) -> Iterator[Row]:
    """Kill whole pipelines at random instants and start them again."""
    yield _kill_pipelines(bench, "pipeline", "distillation", bench.raw())


def torture_comparison(bench: Bench) -> Iterator[Row]:
    """Kill comparisons of four students at random instants and start them again."""
    yield _kill_pipelines(bench, "comparison", "comparison", comparison_settings(bench))


def comparison_settings(bench: Bench) -> dict[str, Any]:
    """Return raw settings of a comparison of two ways of teaching, two seeds each."""
    variants = {"prefix": {}, "shared": {"alignment.strategy": "shared"}}
    training = {**bench.raw()["training"], "max_steps": 6, "evaluations": 2}
    return bench.raw(training=training, comparison={"variants": variants, "seeds": [0, 1]})


def _kill_pipelines(bench: Bench, part: str, name: str, raw: dict[str, Any]) -> Row:
    row = Row(part, "kill -9 at random instants")
    students, points, seconds = _undisturbed(bench, name, raw)
    while row.tries < bench.options.kills:
        with store(bench) as place:
            config = write_config(place, raw)
            num = min(bench.random.randint(3, 8), bench.options.kills - row.tries)
            begin = lambda config=config, place=place: bench.start(pipeline, name, config, folder=place)  # noqa: E731
            row.tries += kill_and_end(row, bench, begin, kills=num, duration=seconds, what=place.parent.name)
            found = students_of(place)
            if found != students:
                kind = "lost" if set(found) < set(students) else "wrong"
                row.add(Fault(kind, f"students {found}, not {students}"))
            for fault in check_records(place, points):
                row.add(fault)
    return row


def prepare_promotion(bench: Bench, place: Path) -> None:
    """Make two finished runs that can be promoted."""
    for seed in (0, 1):
        # The gate asks for the text-only control, whatever it is told to beat.
        raw = bench.raw(seed=seed, evaluation={**bench.raw()["evaluation"], "controls": ["text_only"]})
        process = bench.start(pipeline, "distillation", write_config(place, raw), folder=place)
        if process.end() != 0:
            raise SystemExit(f"the pipeline before a promotion fails:\n{process.output[-3000:]}")


def write_promotion(place: Path, name: str) -> Path:
    """Write the file of a promotion that takes the best run as it is."""
    raw = {
        "experiment": "torture",
        "model_name": name,
        "must_beat": {},
        "require_measurable": False,
        "export_dir": f"outputs/{name}",
    }
    return write_config(place, raw, f"{name}.yaml")


def check_promotion(place: Path, name: str) -> Iterator[Fault]:
    """Yield what is wrong with a champion and its folder."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(database(place), timeout=30)) as connection:
        versions = connection.execute(
            "select version, run_id, source from model_versions where name = ?", (name,)
        ).fetchall()
        aliases = dict(
            connection.execute(
                "select alias, version from registered_model_aliases where name = ?", (name,)
            ).fetchall()
        )
    runs = Counter(run for _, run, _ in versions)
    doubled = [run for run, count in runs.items() if count > 1]
    if doubled:
        yield Fault("doubled", f"{name}: {len(doubled)} runs have more than one version")
    if "champion" not in aliases:
        yield Fault("lost", f"{name}: no champion")
        return
    champion = next((source for version, _, source in versions if version == aliases["champion"]), "")
    stored = Path(champion.removeprefix("file://")) / "model" / "model.safetensors"
    exported = place / "outputs" / name / "model.safetensors"
    if not exported.exists():
        yield Fault("lost", f"{name}: the champion's folder has no weights")
    elif stored.exists() and digest_of_file(stored) != digest_of_file(exported):
        yield Fault("wrong", f"{name}: the champion's folder holds other weights")


def torture_promotion(bench: Bench) -> Iterator[Row]:
    """Kill promotions at random instants and start them again."""
    row = Row("promotion", "kill -9 at random instants")
    with store(bench) as place:
        prepare_promotion(bench, place)
        process = bench.start(pipeline, "promotion", write_promotion(place, "calm"), folder=place)
        if process.end() != 0:
            raise SystemExit(f"the undisturbed promotion fails:\n{process.output[-3000:]}")
        number, seconds = 0, process.seconds
        while row.tries < bench.options.kills:
            number += 1
            config = write_promotion(place, f"student-{number}")
            begin = lambda config=config: bench.start(pipeline, "promotion", config, folder=place)  # noqa: E731
            num = min(bench.random.randint(1, 4), bench.options.kills - row.tries)
            # A start after the champion was chosen refuses it again, and writes its folder with --publish.
            said, what = "is not promoted: better than the champion", f"student-{number}"
            row.tries += kill_and_end(row, bench, begin, kills=num, duration=seconds, what=what, or_says=said)
            published = bench.start(pipeline, "promotion", config, "--publish", folder=place)
            ended_well(row, published, f"student-{number} --publish")
            for fault in check_promotion(place, f"student-{number}"):
                row.add(fault)
        num_running = unfinished_steps(place)
        if num_running:
            row.add(Fault("wrong", f"{num_running} runs or steps are running in ZenML"))
    yield row


# --------------------------------------------------------------------------------------- the server


class Server:
    """A real `mlflow server` that can be killed, stopped and started again on the same store."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            *(
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                f"sqlite:///{self.folder}/m.db",
            ),
            *("--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
        ]
        with (self.folder / "server.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.2)
        raise SystemExit(f"mlflow server does not start:\n{_read(self.folder / 'server.txt')[-2000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def torture_server(bench: Bench) -> Iterator[Row]:
    """A tracking server that dies, hangs, comes back, or is away at the end."""
    num_points = sum(points_of_all(bench.finished).values())
    for what in (
        "killed and started again",
        "stopped for ten seconds",
        "dead at the end, sent by the next start",
    ):
        row = Row("server", f"mlflow server {what}", tries=1)
        folder = bench.fresh("server")
        server = Server(folder)
        try:
            job = bench.job()
            log: dict[str, Any] = {"log": folder / "log.txt", "folder": folder}
            process = Process(train_recorded, job, server.uri, **log)
            while process.alive and not _read(job / "metrics.jsonl"):
                time.sleep(0.01)
            if "stopped" in what:
                server.signal(signal.SIGSTOP)
                time.sleep(10.0)
                server.signal(signal.SIGCONT)
            else:
                server.kill()
            if "started again" in what:
                server.start()
            ended_well(row, process, "the training")
            if server.process.poll() is not None:
                server.start()
            ended_well(row, Process(send_rest, job.parent, server.uri, **log), "the next start")
            for fault in compare_jobs(job, bench.finished):
                row.add(fault)
            for fault in _check_server(folder, num_points):
                row.add(fault)
        finally:
            server.kill()
        yield row


def points_of_all(job: Path) -> Counter[tuple[int, str]]:
    """Return every point of a log, as MLflow has to have them."""
    points: Counter[tuple[int, str]] = Counter()
    for line in (job / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        points.update(
            (entry["tokens"], name) for name, value in entry["metrics"].items() if value is not None
        )
    return points


def _check_server(folder: Path, num_points: int) -> Iterator[Fault]:
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "m.db", timeout=30)) as connection:
        points = Counter(connection.execute("select key, step from metrics where key not like 'progress/%'"))
        states = [status for (status,) in connection.execute("select status from runs")]
    doubled = [one for one, count in points.items() if count > 1]
    if doubled:
        yield Fault("doubled", f"{len(doubled)} points, such as {doubled[0]}")
    if len(points) < num_points:
        yield Fault("lost", f"{num_points - len(points)} of {num_points} points")
    if states != ["FINISHED"]:
        yield Fault("wrong", f"runs are {states}")


# --------------------------------------------------------------------------------------------- soak


def torture_soak(bench: Bench) -> Iterator[Row]:
    """Thousands of steps of small windows: memory stays as it is."""
    import psutil

    steps = bench.options.soak
    row = Row("soak", f"{steps} steps of small windows", tries=1)
    training = {"max_steps": steps, "batch_size": 1, "max_length": 24, "evaluations": 5}
    job = bench.prepare(bench.fresh("soak"), training=training)
    process = bench.start(train, job, folder=job.parent)
    sizes: list[tuple[int, float]] = []
    while process.alive:
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
            step = json.loads(_read(job / "metrics.jsonl").splitlines()[-1])["step"]
            sizes.append((step, psutil.Process(process.process.pid).memory_info().rss / 2**20))
        process.wait(0.5)
    ended_well(row, process, "the soak")
    warm = [size for step, size in sizes if step >= steps / 5]
    if len(warm) < 10:
        row.add(Fault("untold", f"only {len(warm)} samples of memory"))
    else:
        # Ends of the run against each other: a leak grows, a moment's buffer does not.
        part = max(1, len(warm) // 5)
        begin, end = (sorted(some)[part // 2] for some in (warm[:part], warm[-part:]))
        row.notes.append(f"note: {begin:,.0f} MiB after a fifth, {end:,.0f} MiB at the end")
        if abs(end / begin - 1) > 0.02:
            row.add(Fault("wrong", f"memory went from {begin:,.0f} to {end:,.0f} MiB"))
    yield row


# --------------------------------------------------------------------------------------------- all

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "job": torture_job,
    "cache": torture_cache,
    "two": torture_two,
    "damage": torture_damage,
    "disk": torture_disk,
    "signals": torture_signals,
    "server": torture_server,
    "pipeline": torture_pipeline,
    "comparison": torture_comparison,
    "promotion": torture_promotion,
    "soak": torture_soak,
}
QUICK = ("job", "two", "damage")


def new_context() -> Any:
    """Return a context whose children are forked from a fresh server with the present environment."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    with contextlib.suppress(ValueError, AttributeError, OSError):
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
    preloaded = [
        "distillation.training.run",
        "distillation.training.trainer",
        "distillation.teachers.cache.fill",
    ]
    context.set_forkserver_preload([*preloaded, "transformers.models.qwen3_moe", "transformers.models.llama"])
    return context


def run(options: argparse.Namespace) -> list[Row]:
    """Run the parts that are asked for and return all rows; each is printed as it is done."""
    os.environ.update(ENVIRONMENT)
    for name in ("MLFLOW_TRACKING_URI", "ZENML_CONFIG_PATH", "ZENML_LOCAL_STORES_PATH"):
        os.environ.pop(name, None)
    Process.context = new_context()
    rows: list[Row] = []
    work = Path(options.work) if options.work else Path(tempfile.mkdtemp(prefix="torture-"))
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(work.resolve(), options)
    try:
        for name in options.only or (QUICK if options.share == "quick" else PARTS):
            begin = time.monotonic()
            try:
                for row in PARTS[name](bench):
                    row.seconds = time.monotonic() - begin
                    begin = time.monotonic()
                    rows.append(row)
                    print(f"{row.part}: {row.what}: {'held' if row.is_good else row.notes}", file=sys.stderr)
            except SkippedError as reason:
                rows.append(Row(name, "skipped", notes=[f"skipped: {reason}"]))
    finally:
        if options.work is None and all(row.is_good for row in rows):
            shutil.rmtree(work, ignore_errors=True)
        else:
            print(f"logs: {work}", file=sys.stderr)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, and below it what went wrong."""
    lines = ["| part | what | tries | lost | doubled | wrong | untold | minutes |", "| --- " * 8 + "|"]
    for row in rows:
        cells = (row.part, row.what, row.tries, row.lost, row.doubled, row.wrong, row.untold)
        lines.append("| " + " | ".join(map(str, cells)) + f" | {row.seconds / 60:.1f} |")
    for row in rows:
        for note, count in Counter(row.notes).items():
            lines.append(f"- {row.part}, {row.what}: {note}" + (f" ({count} times)" if count > 1 else ""))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 if anything was lost, doubled, wrong or untold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--share", choices=("whole", "quick"), default="whole")
    parser.add_argument("--kills", type=int, default=25, help="kill -9 of each part (default 25)")
    parser.add_argument("--soak", type=int, default=5000, metavar="STEPS", help="steps of the soak")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--teacher", default="sample", help="models.teacher.path")
    parser.add_argument("--student", default="sample", help="models.student.path")
    parser.add_argument("--work", help="folder to work in, which is kept; default a temporary one")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    rows = run(parser.parse_args(arguments))
    print(
        json.dumps([vars(row) for row in rows], indent=1)
        if "--json" in (arguments or sys.argv)
        else table(rows)
    )
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
