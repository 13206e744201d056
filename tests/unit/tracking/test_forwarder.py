"""Metrics reach MLflow live, whole, once, and after an outage."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tracking.forwarder import MetricsForwarder, send_remaining
from tracking.runs import Recorder, RunSpec

PARENT = RunSpec("pipeline-1", "parent", {"role": "pipeline"}, {"seed": "0"})
RUN = RunSpec("pipeline-1 distilled", "distilled", {"variant": "distilled"})


def write_line(job_dir: Path, step: int, **metrics: float) -> None:
    line = {"step": step, "tokens": 10 * step, "time": 1_700_000_000.0 + step, "metrics": metrics}
    with (job_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def forwarder(job_dir: Path, uri: str, interval: float = 0.05) -> MetricsForwarder:
    return MetricsForwarder(job_dir, uri=uri, experiment="first", parent=PARENT, run=RUN, interval=interval)


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    history = Recorder(uri, "first").client.get_metric_history(run_id, "loss")
    return sorted((metric.step, metric.value) for metric in history)


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "jobs" / "distilled-1"
    directory.mkdir(parents=True)
    return directory


def test_lines_arrive_while_the_training_goes_on(job_dir: Path, tracking_uri: str) -> None:
    with forwarder(job_dir, tracking_uri) as live:
        write_line(job_dir, 1, loss=3.0)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (live.run_id and losses(tracking_uri, live.run_id)):
            time.sleep(0.05)
        assert live.run_id is not None
        assert losses(tracking_uri, live.run_id) == [(1, 3.0)]
        write_line(job_dir, 2, loss=2.0, **{"held_out/bits_per_byte": 1.5})
    client = Recorder(tracking_uri, "first").client
    run = client.get_run(live.run_id)
    assert losses(tracking_uri, live.run_id) == [(1, 3.0), (2, 2.0)]
    assert run.data.metrics["held_out/bits_per_byte"] == 1.5
    assert run.info.status == "FINISHED"
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["role"] == "pipeline"
    assert parent.data.params["seed"] == "0"


def test_nothing_is_sent_twice_when_the_process_died_before_it_could_remember(
    job_dir: Path, tracking_uri: str
) -> None:
    for step in range(1, 6):
        write_line(job_dir, step, loss=1.0 / step)
    with forwarder(job_dir, tracking_uri) as first:
        pass
    state = next((job_dir / "tracking").glob("*.json"))
    forgotten = json.loads(state.read_text()) | {"offset": 0, "last_line": "", "is_closed": False}
    state.write_text(json.dumps(forgotten))
    write_line(job_dir, 6, loss=0.1)
    with forwarder(job_dir, tracking_uri) as second:
        pass
    assert second.run_id == first.run_id
    assert [step for step, _ in losses(tracking_uri, first.run_id or "")] == [1, 2, 3, 4, 5, 6]


def test_a_line_that_is_still_being_written_waits(job_dir: Path, tracking_uri: str) -> None:
    write_line(job_dir, 1, loss=3.0)
    with (job_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tokens": 20, "time": 1700000002.0, "met')
    sender = forwarder(job_dir, tracking_uri)
    assert sender.forward() == 1
    with (job_dir / "metrics.jsonl").open("a") as file:
        file.write('rics": {"loss": 2.0}}\n')
    assert sender.forward() == 1
    assert losses(tracking_uri, sender.run_id or "") == [(1, 3.0), (2, 2.0)]


def test_a_log_that_a_resume_rewrote_is_sent_again_without_doubles(job_dir: Path, tracking_uri: str) -> None:
    for step in (1, 2, 3):
        write_line(job_dir, step, loss=float(step))
    sender = forwarder(job_dir, tracking_uri)
    sender.forward()
    lines = (job_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (job_dir / "metrics.jsonl").write_text(lines[0])  # back to the checkpoint of step 1 ...
    write_line(job_dir, 2, loss=2.0)
    write_line(job_dir, 3, loss=3.5)  # ... from where step 3 went otherwise
    write_line(job_dir, 4, loss=4.0)
    assert sender.forward() == 4
    assert losses(tracking_uri, sender.run_id or "") == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 3.5), (4, 4.0)]


def test_training_goes_on_without_the_server_and_the_next_start_sends_the_rest(
    job_dir: Path, tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Path(tracking_uri.removeprefix("sqlite:///")).parent
    away = store.with_name("away")
    with forwarder(job_dir, tracking_uri) as sender:
        write_line(job_dir, 1, loss=3.0)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and sender.num_waiting_bytes:
            time.sleep(0.05)
        shutil.move(store, away)
        store.write_text("the disk is gone")  # a file where the folder was: every request fails
        write_line(job_dir, 2, loss=2.0)
        time.sleep(0.3)
    assert sender.num_waiting_bytes > 0
    assert "sent when a pipeline starts next" in caplog.text
    assert send_remaining(job_dir.parent, tracking_uri) == 0

    store.unlink()
    shutil.move(away, store)
    assert send_remaining(job_dir.parent, "sqlite:////another/store.db") == 0
    assert send_remaining(job_dir.parent, tracking_uri) == 1
    assert send_remaining(job_dir.parent, tracking_uri) == 0
    assert losses(tracking_uri, sender.run_id or "") == [(1, 3.0), (2, 2.0)]
    assert Recorder(tracking_uri, "first").client.get_run(sender.run_id or "").info.status == "FINISHED"


def test_a_training_that_fails_leaves_a_failed_run_with_its_metrics(job_dir: Path, tracking_uri: str) -> None:
    write_line(job_dir, 1, loss=3.0)
    sender = forwarder(job_dir, tracking_uri)
    with pytest.raises(RuntimeError, match="out of memory"), sender:
        raise RuntimeError("out of memory")
    assert Recorder(tracking_uri, "first").client.get_run(sender.run_id or "").info.status == "FAILED"
    assert losses(tracking_uri, sender.run_id or "") == [(1, 3.0)]


def test_many_metrics_go_in_requests_that_the_server_accepts(job_dir: Path, tracking_uri: str) -> None:
    for step in range(400):
        write_line(job_dir, step, loss=float(step), grad_norm=1.0, learning_rate=0.1)
    sender = forwarder(job_dir, tracking_uri)
    assert sender.forward() == 400
    assert len(losses(tracking_uri, sender.run_id or "")) == 400
