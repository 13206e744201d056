"""Sends `metrics.jsonl` of a job directory to MLflow while it grows: nothing lost, nothing sent twice.

The log is the truth and MLflow a view of it. How far it has been sent stands in `JOB_DIR/tracking/*.json`,
written after each accepted batch. If the process dies between the two, the batch goes out once more; every
entry carries the time at which it was *written*, and MLflow stores an equal entry once. If the server dies,
training goes on; what is missing is sent at the end, or by `send_remaining` when a pipeline starts next.

Samples of the machine's load travel along. They are no part of the log: those that could not be sent before
the process ended are lost.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from distillation.errors import (
    DistillationError,
    InputError,
    LockError,
    StorageError,
    TrackingError,
    one_line,
)
from distillation.files import storing, write_json
from distillation.locks import exclusive
from distillation.metrics_log import METRICS_FILE
from distillation.reading import read_json
from distillation.redaction import scrub, scrub_all
from tracking.killed import KILLED, ZENML_TAG, go_on
from tracking.log_lines import MAX_METRICS, grouped, read_lines
from tracking.runs import Recorder, RunSpec
from tracking.system_metrics import SystemSampler

_LOG = logging.getLogger(__name__)
_MAX_PAUSE = 30.0  # seconds between attempts while the server is away
_PATIENCE = 5.0  # seconds that the end of a training waits for a server that shows no progress
_STOP_PATIENCE = 0.7  # a stop waits for nobody
_LOCAL_PATIENCE = 60.0  # for a database file, which may be slow but cannot hang


@dataclass(frozen=True)
class _State:
    """How far one log has been sent to one run, and all that is needed to go on."""

    uri: str
    experiment: str
    run: dict[str, Any]
    parent: dict[str, Any] | None = None
    """Of files of earlier versions; now `run` holds what it is nested in."""
    offset: int = 0
    last_line: str = ""
    """Digest of the last line sent: tells an extended log from one that was rewritten."""
    outcome: str | None = None
    """FINISHED, FAILED or KILLED once training has ended."""
    is_closed: bool = False
    """The whole log is on the server, and its run has ended there."""

    @property
    def spec(self) -> RunSpec:
        """The run that the log goes to."""
        return RunSpec.from_json({"parent": self.parent} | self.run)


class MetricsForwarder:
    """Context manager around a training: forwards the log in a thread and closes the run at the end.

    It never raises for a failing server, and waits a few seconds for a silent one; `num_waiting_bytes` says
    what has not been sent.
    """

    def __init__(
        self,
        job_dir: Path,
        *,
        uri: str,
        experiment: str,
        run: RunSpec,
        parent: RunSpec | None = None,
        interval: float = 2.0,
        samples_system: bool = False,
        patience: float | None = None,
    ) -> None:
        run = replace(run, parent=run.parent or parent)
        self._log = job_dir / METRICS_FILE
        self._interval = interval
        self._patience = patience or (_LOCAL_PATIENCE if uri.startswith("sqlite") else _PATIENCE)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="metrics-forwarder", daemon=True)
        self._sampler = SystemSampler() if samples_system else None
        self._recorder: Recorder | None = None
        self._run_id: str | None = None
        self._is_silent = False
        self._num_answers = 0
        self._tokens = 0
        key = f"{uri} {experiment} {run.parent.key if run.parent else ''} {run.key}"
        self._file = job_dir / "tracking" / f"{_digest(key)}.json"
        # What was sent counts, in the run as it is now: another pipeline run may be at work in it.
        state = _read_state(self._file) or _State(uri, experiment, {})
        self._state = replace(state, run=run.to_json(), parent=None)

    @classmethod
    def resume(cls, file: Path) -> MetricsForwarder | None:
        """Return the forwarder whose state is `file`, or None where it cannot be read."""
        state = _read_state(file)
        if state is None:
            return None
        return cls(file.parent.parent, uri=state.uri, experiment=state.experiment, run=state.spec)

    def __enter__(self) -> MetricsForwarder:
        """Start forwarding."""
        self._save(outcome=None, is_closed=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the thread send the rest and end the run; say so if something has to wait."""
        # Written here and not by the thread: if that hangs, the next start has to know.
        self._save(outcome=_outcome(kind))
        self._stop.set()
        is_stopped = self._state.outcome == KILLED
        while self._thread.is_alive():
            before = self._num_answers
            self._thread.join(_STOP_PATIENCE if is_stopped else self._patience)
            if is_stopped or self._num_answers == before:
                break
        if not self._state.is_closed:
            _LOG.warning(
                "tracking server %s does not answer: %d bytes of metrics wait in %s and are sent when a "
                "pipeline starts next",
                scrub(self._state.uri),
                self.num_waiting_bytes,
                self._log,
            )

    @property
    def run_id(self) -> str | None:
        """The run's id on the server, once it is known."""
        return self._run_id

    @property
    def num_waiting_bytes(self) -> int:
        """Bytes of the log that the server does not have yet."""
        size = self._log.stat().st_size if self._log.exists() else 0
        return max(0, size - self._state.offset)

    def drain(self, outcome: str | None = None) -> bool:
        """Send all that is there and end the run if training has ended; False if the server fails.

        Args:
            outcome: of a training that has ended without saying so.
        """
        if outcome is not None and self._state.outcome is None:
            self._save(outcome=outcome)
        try:
            self.forward()
            if self._state.outcome is not None and not self._state.is_closed:
                self._server().close(self._open_run(), self._state.outcome)
                self._save(is_closed=True)
        except (TrackingError, StorageError) as error:
            self._tell(error)
            return False
        return True

    def forward(self) -> int:
        """Send the complete lines that have not been sent, and waiting samples; return the number of lines.

        Raises:
            TrackingError: the server failed; what it had accepted before is remembered.
        """
        run_id = self._open_run()
        num_lines = 0
        batches, before = self._batches()
        for lines in batches:
            parsed = list(read_lines(lines, before))
            before = lines[-1]
            if parsed:
                self._server().log_entries(run_id, [metric for one in parsed for metric in one.metrics])
                self._num_answers += 1
                self._tokens = parsed[-1].tokens
            self._save(offset=self._state.offset + sum(map(len, lines)), last_line=_digest(lines[-1]))
            num_lines += len(lines)
        while self._sampler is not None and self._sampler.waiting:
            samples = list(islice(self._sampler.waiting, MAX_METRICS))
            self._server().log_entries(run_id, samples)
            self._num_answers += 1
            self._sampler.drop(samples)
        return num_lines

    def _batches(self) -> tuple[list[list[bytes]], bytes]:
        """Return the unsent complete lines in groups that fit one request, and the line before them."""
        if not self._log.exists():
            return [], b""
        content = self._log.read_bytes()
        sent = content[: self._state.offset].splitlines(keepends=True)
        if self._state.offset and (
            len(content) < self._state.offset or _digest(sent[-1]) != self._state.last_line
        ):
            # The log was rewritten, as after a resume: MLflow stores equal entries once.
            self._save(offset=0, last_line="")
            sent = []
        unsent = content[self._state.offset :]
        lines = unsent[: unsent.rfind(b"\n") + 1].splitlines(keepends=True)
        return list(grouped(lines)), sent[-1] if sent else b""

    def _loop(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            if self._sampler is not None:
                self._sampler.sample_if_due(self._tokens)
            try:
                self.forward()
                pause, self._is_silent = self._interval, False
            except (TrackingError, StorageError) as error:
                self._tell(error)
                pause = min(2 * pause, _MAX_PAUSE)
        self.drain()

    def _tell(self, error: DistillationError) -> None:
        """Say once an outage that the server is away, or that nothing can be written."""
        if not self._is_silent:
            _LOG.warning("%s; metrics are kept in %s meanwhile", one_line(error), self._log)
        self._is_silent = True

    def _server(self) -> Recorder:
        if self._recorder is None:
            self._recorder = Recorder(self._state.uri, self._state.experiment)
        return self._recorder

    def _open_run(self) -> str:
        if self._run_id is None:
            self._run_id = self._server().open(self._state.spec)
            if self._state.outcome is None:
                self._go_on(self._state.spec)
            self._num_answers += 1
        return self._run_id

    def _go_on(self, spec: RunSpec | None) -> None:
        """Let the run and those that it is nested in be RUNNING: a stopped comparison goes on in them."""
        while spec is not None:
            go_on(self._server(), self._server().open(spec), spec.tags.get(ZENML_TAG))
            spec = spec.parent

    def _save(self, **changes: Any) -> None:
        """Change the state and write it; both threads do."""
        with self._lock, storing(self._file):
            self._state = replace(self._state, **changes)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, _storable(self._state))


def send_remaining(output_dir: Path, uri: str) -> int:
    """Send what earlier runs under `output_dir` still owe to the server; return the number of logs.

    A log whose training was killed is sent as far as it goes, and its run ends as KILLED.
    """
    num_sent = 0
    for file in sorted(output_dir.glob("*/tracking/*.json")):
        state = _read_state(file)
        if state is None or state.uri != uri or state.is_closed:
            continue
        if state.outcome is None and _is_at_work(file.parent.parent):
            continue
        forwarder = MetricsForwarder.resume(file)
        if forwarder is None or not forwarder.drain(KILLED):
            break
        num_sent += 1
    return num_sent


def _outcome(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "FINISHED"
    return "FAILED" if issubclass(kind, Exception) else KILLED


def _is_at_work(job_dir: Path) -> bool:
    try:
        with exclusive(job_dir, "job directory"):
            return False
    except LockError:
        return True


def _storable(state: _State) -> dict[str, Any]:
    """Return the state as plain data without secrets; what finds server and run again stays as it is."""

    def scrubbed(run: dict[str, Any]) -> dict[str, Any]:
        parent = run.get("parent")
        return scrub_all(run) | {"key": run["key"], "parent": scrubbed(parent) if parent else None}

    return asdict(state) | {
        "run": scrubbed(state.run),
        "parent": scrubbed(state.parent) if state.parent else None,
    }


def _read_state(file: Path) -> _State | None:
    try:
        state = _State(**read_json(file))
        state.spec  # noqa: B018 - a specification that cannot be read raises here
    except (InputError, ValueError, TypeError, AttributeError):
        return None
    return state


def _digest(content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:16]
