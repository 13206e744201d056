"""Metrics reach MLflow live, whole, once, and after an outage."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillation.locks import exclusive
from distillation.metrics_log import sealed_line
from distillation.stopping import Stopped
from tracking.forwarder import MetricsForwarder, send_remaining
from tracking.killed import close_runs
from tracking.log_lines import log_history, read_line
from tracking.runs import Recorder, RunSpec

PARENT = RunSpec("pipeline-1", "parent", {"role": "pipeline"}, {"seed": "0"})
RUN = RunSpec("pipeline-1 distilled", "distilled", {"variant": "distilled"}, parent=PARENT)


def write_line(job_dir: Path, step: int, **metrics: float) -> None:
    line = {"step": step, "tokens": 10 * step, "time": 1_700_000_000.0 + step, "metrics": metrics}
    with (job_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(sealed_line(line))


def forwarder(job_dir: Path, uri: str, interval: float = 0.05, **options: Any) -> MetricsForwarder:
    return MetricsForwarder(job_dir, uri=uri, experiment="first", run=RUN, interval=interval, **options)


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    """Tokens seen, loss."""
    history = Recorder(uri, "first").client.get_metric_history(run_id, "train/loss")
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
        assert losses(tracking_uri, live.run_id) == [(10, 3.0)]
        write_line(job_dir, 2, loss=2.0, **{"held_out/bits_per_byte": 1.5})
    client = Recorder(tracking_uri, "first").client
    run = client.get_run(live.run_id)
    assert losses(tracking_uri, live.run_id) == [(10, 3.0), (20, 2.0)]
    assert run.data.metrics["held_out/bits_per_byte"] == 1.5
    assert (run.data.metrics["progress/tokens_seen"], run.data.metrics["progress/optimizer_step"]) == (20, 2)
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
    assert [tokens for tokens, _ in losses(tracking_uri, first.run_id or "")] == [10, 20, 30, 40, 50, 60]


def test_a_line_that_is_still_being_written_waits(job_dir: Path, tracking_uri: str) -> None:
    write_line(job_dir, 1, loss=3.0)
    with (job_dir / "metrics.jsonl").open("a") as file:
        line = sealed_line({"step": 2, "tokens": 20, "time": 1_700_000_002.0, "metrics": {"loss": 2.0}})
        file.write(line[:50])
    sender = forwarder(job_dir, tracking_uri)
    assert sender.forward() == 1
    with (job_dir / "metrics.jsonl").open("a") as file:
        file.write(line[50:])
    assert sender.forward() == 1
    assert losses(tracking_uri, sender.run_id or "") == [(10, 3.0), (20, 2.0)]


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
    assert losses(tracking_uri, sender.run_id or "") == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.0),
        (30, 3.5),
        (40, 4.0),
    ]


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
    assert losses(tracking_uri, sender.run_id or "") == [(10, 3.0), (20, 2.0)]
    assert Recorder(tracking_uri, "first").client.get_run(sender.run_id or "").info.status == "FINISHED"


def test_a_training_that_fails_leaves_a_failed_run_with_its_metrics(job_dir: Path, tracking_uri: str) -> None:
    write_line(job_dir, 1, loss=3.0)
    sender = forwarder(job_dir, tracking_uri)
    with pytest.raises(RuntimeError, match="out of memory"), sender:
        raise RuntimeError("out of memory")
    assert Recorder(tracking_uri, "first").client.get_run(sender.run_id or "").info.status == "FAILED"
    assert losses(tracking_uri, sender.run_id or "") == [(10, 3.0)]


def test_many_metrics_go_in_requests_that_the_server_accepts(job_dir: Path, tracking_uri: str) -> None:
    for step in range(400):
        write_line(job_dir, step, loss=float(step), grad_norm=1.0, learning_rate=0.1)
    sender = forwarder(job_dir, tracking_uri)
    assert sender.forward() == 400
    assert len(losses(tracking_uri, sender.run_id or "")) == 400


def silent_server() -> socket.socket:
    """A server that accepts and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.mark.parametrize("is_listening", [True, False])
def test_a_dead_server_neither_stops_a_training_nor_holds_up_its_end(
    job_dir: Path, caplog: pytest.LogCaptureFixture, is_listening: bool
) -> None:
    with silent_server() as listener:
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not is_listening:
            listener.close()
        begin = time.monotonic()
        with forwarder(job_dir, uri, samples_system=True, patience=1.5) as sender:
            write_line(job_dir, 1, loss=3.0)
            time.sleep(0.3)
        assert time.monotonic() - begin < 8
    assert sender.num_waiting_bytes > 0
    assert "does not answer" in caplog.text
    # Whoever starts next knows that this training has ended, although the thread hangs in a request.
    [state] = (job_dir / "tracking").glob("*.json")
    assert json.loads(state.read_text())["outcome"] == "FINISHED"


def test_the_load_of_the_machine_is_recorded_over_the_same_axis(
    job_dir: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with forwarder(job_dir, tracking_uri, samples_system=True) as live:
        write_line(job_dir, 1, loss=3.0)
        time.sleep(0.5)
        write_line(job_dir, 2, loss=2.0)
        time.sleep(0.5)
    client = Recorder(tracking_uri, "first").client
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes"):
        samples = client.get_metric_history(live.run_id or "", f"system/{name}")
        assert len(samples) >= 2
        assert {sample.step for sample in samples} <= {0, 10, 20}
        assert max(sample.step for sample in samples) == 20
    with forwarder(job_dir, tracking_uri) as quiet:
        time.sleep(0.3)
    assert len(client.get_metric_history(quiet.run_id or "", f"system/{name}")) == len(samples)


def test_samples_wait_for_the_server_as_long_as_the_process_lives(job_dir: Path, tracking_uri: str) -> None:
    store = Path(tracking_uri.removeprefix("sqlite:///")).parent
    away = store.with_name("away")
    sender = forwarder(job_dir, tracking_uri, samples_system=True)
    sampler = sender._sampler
    assert sampler is not None
    shutil.move(store, away)
    store.write_text("the disk is gone")
    sampler.sample_if_due(0)
    num_waiting = len(sampler.waiting)
    assert num_waiting >= 3
    assert not sender.drain()
    assert len(sampler.waiting) == num_waiting
    store.unlink()
    shutil.move(away, store)
    assert sender.drain()
    assert not sampler.waiting
    names = Recorder(tracking_uri, "first").client.get_run(sender.run_id or "").data.metrics
    assert sum(name.startswith("system/") for name in names) == num_waiting


def test_a_state_file_of_an_earlier_version_is_gone_on_with(job_dir: Path, tracking_uri: str) -> None:
    write_line(job_dir, 1, loss=3.0)
    old = {
        "uri": tracking_uri,
        "experiment": "first",
        "parent": {"key": "pipeline-1", "name": "parent", "tags": {"role": "pipeline"}, "params": {}},
        "run": {"key": "pipeline-1 distilled", "name": "distilled", "tags": {}, "params": {}},
        "offset": 0,
        "last_line": "",
        "outcome": "FINISHED",
        "is_closed": False,
    }
    name = forwarder(job_dir, tracking_uri)._file.name
    file = job_dir / "tracking" / name
    file.parent.mkdir()
    file.write_text(json.dumps(old))
    assert send_remaining(job_dir.parent, tracking_uri) == 1
    assert list(file.parent.glob("*.json")) == [file]
    recorder = Recorder(tracking_uri, "first")
    run_id = recorder.open(RUN)
    assert losses(tracking_uri, run_id) == [(10, 3.0)]
    assert len(recorder.client.search_runs([recorder.experiment_id()])) == 2


def test_names_are_grouped_and_the_same_for_every_variant() -> None:
    line = {
        "step": 3,
        "tokens": 300,
        "time": 1.0,
        "metrics": {
            "loss": 1.0,
            "forward_kl": 1.0,
            "learning_rate": 1.0,
            "grad_norm": 1.0,
            "tokens_per_second": 1.0,
            "memory_mb": 1.0,
            "residual_mass": 1.0,
            "gradient_share/forward_kl": 1.0,
            "held_out/bits_per_byte": None,
        },
    }
    read = read_line(sealed_line(line).encode())
    assert read is not None
    assert {metric.key for metric in read.metrics} == {
        "train/loss",
        "train/forward_kl",
        "optimizer/learning_rate",
        "optimizer/gradient_norm",
        "speed/tokens_per_second",
        "memory/peak_mebibytes",
        "targets/residual_mass",
        "gradient_share/forward_kl",
        "progress/optimizer_step",
        "progress/tokens_seen",
    }
    assert {(metric.step, metric.timestamp) for metric in read.metrics} == {(300, 1000)}
    assert read_line(b'{"step": 3, "tok') is None
    assert read_line(sealed_line(line).replace("forward_kl", "forward_kk").encode()) is None


def test_a_step_of_several_lines_stands_once_on_the_axis(job_dir: Path, tracking_uri: str) -> None:
    """Lines of training and of evaluation come at different times; sent live or again, it is one point."""
    lines = [
        (1, {"loss": 3.0}),
        (2, {"loss": 2.0}),
        (2, {"held_out/loss": 2.5}),
        (2, {"rest": 1.0}),
        (3, {"loss": 1.0}),
    ]
    sender = forwarder(job_dir, tracking_uri)
    for number, (step, metrics) in enumerate(lines):
        line = {"step": step, "tokens": 10 * step, "time": 1_700_000_000.0 + number, "metrics": metrics}
        with (job_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(sealed_line(line))
        sender.forward()
    recorder, run_id = Recorder(tracking_uri, "first"), sender.run_id or ""
    log_history(recorder, run_id, job_dir / "metrics.jsonl")
    for name in ("progress/optimizer_step", "progress/tokens_seen"):
        assert sorted(one.step for one in recorder.client.get_metric_history(run_id, name)) == [10, 20, 30]
    assert len(recorder.client.get_metric_history(run_id, "held_out/loss")) == 1


def test_the_state_that_waits_for_a_server_holds_no_secret(job_dir: Path, tracking_uri: str) -> None:
    prompt = {"evaluation.prompts": "open http://anna:hunter2@host"}
    parent = RunSpec("pipeline-1", "parent", params=prompt)
    spec = RunSpec("pipeline-1 distilled", "distilled", params=prompt, parent=parent)
    with MetricsForwarder(job_dir, uri=tracking_uri, experiment="first", run=spec):
        pass
    state = next((job_dir / "tracking").glob("*.json"))
    assert "hunter2" not in state.read_text()
    resumed = MetricsForwarder.resume(state)
    assert resumed is not None
    assert resumed.drain()


def test_a_whole_log_can_be_recorded_again(job_dir: Path, tracking_uri: str) -> None:
    for step in range(300):
        write_line(job_dir, step, loss=float(step), grad_norm=1.0)
    recorder = Recorder(tracking_uri, "first")
    run_id = recorder.open(RUN)
    for _ in range(2):
        log_history(recorder, run_id, job_dir / "metrics.jsonl")
    assert [tokens for tokens, _ in losses(tracking_uri, run_id)] == list(range(0, 3000, 10))


def test_a_training_that_was_killed_is_sent_as_far_as_it_goes_and_closed(
    job_dir: Path, tracking_uri: str
) -> None:
    write_line(job_dir, 1, loss=3.0)
    with forwarder(job_dir, tracking_uri) as live:
        pass
    state = next((job_dir / "tracking").glob("*.json"))
    at_work = json.loads(state.read_text()) | {"outcome": None, "is_closed": False}
    state.write_text(json.dumps(at_work))
    recorder = Recorder(tracking_uri, "first")
    recorder.client.update_run(live.run_id, status="RUNNING")
    write_line(job_dir, 2, loss=2.0)

    with exclusive(job_dir, "job directory"):  # the training is at work still
        assert send_remaining(job_dir.parent, tracking_uri) == 0
    assert recorder.client.get_run(live.run_id).info.status == "RUNNING"
    assert send_remaining(job_dir.parent, tracking_uri) == 1
    assert recorder.client.get_run(live.run_id).info.status == "KILLED"
    assert losses(tracking_uri, live.run_id or "") == [(10, 3.0), (20, 2.0)]
    assert send_remaining(job_dir.parent, tracking_uri) == 0

    # Gone on with, as in a comparison: all that it is nested in is at work again, under the new pipeline run.
    parent = replace(PARENT, tags=PARENT.tags | {"zenml.run": "second"})
    recorder.close(recorder.open(PARENT), "KILLED")
    with MetricsForwarder(
        job_dir, uri=tracking_uri, experiment="first", run=replace(RUN, parent=parent), interval=0.05
    ) as again:
        deadline = time.monotonic() + 20
        parent_id = recorder.find(PARENT.key)
        found = recorder.client.get_run(parent_id)
        while found.data.tags.get("zenml.run") != "second" and time.monotonic() < deadline:
            time.sleep(0.05)
            found = recorder.client.get_run(parent_id)
        assert (found.info.status, found.data.tags["zenml.run"]) == ("RUNNING", "second")
    assert again.run_id == live.run_id
    assert recorder.client.get_run(live.run_id).info.status == "FINISHED"


def test_a_stop_ends_the_run_as_killed(job_dir: Path, tracking_uri: str) -> None:
    write_line(job_dir, 1, loss=3.0)
    live = forwarder(job_dir, tracking_uri)
    with pytest.raises(Stopped), live:
        raise Stopped(signal.SIGINT)
    deadline = time.monotonic() + 20  # a stop waits for nobody, the process that a test runs in lives on
    status = ""
    while status != "KILLED" and time.monotonic() < deadline:
        time.sleep(0.05)
        if live.run_id is not None:
            status = Recorder(tracking_uri, "first").client.get_run(live.run_id).info.status
    assert status == "KILLED"


def test_runs_of_a_pipeline_run_that_is_over_are_closed_with_what_is_nested_in_them(
    tracking_uri: str,
) -> None:
    recorder = Recorder(tracking_uri, "first")
    mine = RunSpec("mine", "mine", {"zenml.run": "killed-1"})
    other = RunSpec("other", "other", {"zenml.run": "alive-2"})
    below = RunSpec("below", "below", parent=RunSpec("between", "between", parent=mine))
    ids = {spec.name: recorder.open(spec) for spec in (mine, other, below, replace(below, parent=other))}
    recorder.close(recorder.open(mine), "FAILED")  # the stop came as far as this
    nested = recorder.open(below)
    assert close_runs(recorder, "killed-1") == 2
    status = {run.info.run_id: run.info.status for run in recorder.client.search_runs(["1"])}
    assert status[ids["mine"]] == "FAILED"
    assert status[nested] == "KILLED"
    assert status[ids["other"]] == "RUNNING"
    assert close_runs(recorder, "killed-1") == 0
