"""What a tracking server refuses to take is one line before any work; what was tried is gone again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType

from distillation.errors import TrackingError
from tracking.runs import Recorder
from tracking.trial import try_tracking


class Server:
    """A real MLflow server in this process that can be told to refuse some paths."""

    def __init__(self) -> None:
        self.refused: tuple[str, ...] = ()
        self.uri = ""

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        from mlflow.server import app

        if any(part in environment["PATH_INFO"] for part in self.refused):
            start("403 FORBIDDEN", [("Content-Type", "text/plain")])
            return [b"Permission denied"]
        return app(environment, start)


@pytest.fixture(scope="module")
def running(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_database, folder / "mlflow.db")
    served = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", f"{folder}/artifacts")
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        listener = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Silent)
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        served.uri = f"http://127.0.0.1:{listener.server_port}"
        yield served
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def server(running: Server) -> Server:
    running.refused = ()
    return running


def names_of_runs(uri: str, experiment: str, view: int = ViewType.ACTIVE_ONLY) -> list[str]:
    recorder = Recorder(uri, experiment)
    found = recorder.client.search_runs([recorder.experiment_id()], run_view_type=view)
    return [run.info.run_name for run in found]


def test_a_database_that_takes_everything_keeps_nothing(tracking_uri: str, tmp_path: Path) -> None:
    try_tracking(tracking_uri, "new")
    assert names_of_runs(tracking_uri, "new") == []
    assert not [path for path in (tmp_path / "store").rglob("*") if path.name == "trial.txt"]


def test_a_server_that_takes_everything_shows_nothing(server: Server) -> None:
    try_tracking(server.uri, "served")
    assert names_of_runs(server.uri, "served") == []
    assert names_of_runs(server.uri, "served", ViewType.DELETED_ONLY) == ["trial of a write"]


@pytest.mark.parametrize(
    ("refused", "kind", "remedy"),
    [
        ("runs/create", "run", "MLFLOW_TRACKING_USERNAME"),
        ("runs/log-batch", "figure", "MLFLOW_TRACKING_USERNAME"),
        ("mlflow-artifacts/", "file", "mlflow-artifacts:/.* can be written"),
    ],
)
def test_what_the_server_forbids_is_named(server: Server, refused: str, kind: str, remedy: str) -> None:
    server.refused = (refused,)
    line = rf"{server.uri}: tracking.experiment = 'forbidden' takes no {kind} \(.*403.*{remedy}"
    with pytest.raises(TrackingError, match=line) as info:
        try_tracking(server.uri, "forbidden")
    assert "\n" not in str(info.value)
    server.refused = ()
    assert names_of_runs(server.uri, "forbidden") == []


def test_a_server_that_lets_nobody_delete_is_no_refusal(server: Server) -> None:
    server.refused = ("runs/delete",)
    try_tracking(server.uri, "kept")
    assert names_of_runs(server.uri, "kept") == ["trial of a write"]


def test_an_artifact_store_that_cannot_be_written_is_named(tracking_uri: str, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    Recorder(tracking_uri, "x").client.create_experiment("barred", artifact_location=f"{in_the_way}/runs")
    with pytest.raises(TrackingError, match=f"'barred' takes no file .*Not a directory.*{in_the_way}/runs"):
        try_tracking(tracking_uri, "barred")
    assert names_of_runs(tracking_uri, "barred") == []


def test_an_artifact_store_whose_library_is_missing_is_named(tracking_uri: str) -> None:
    client = Recorder(tracking_uri, "x").client
    client.create_experiment("away", artifact_location="unknown-store://bucket/runs")
    with pytest.raises(TrackingError, match=r"'away' takes no file .*unknown-store"):
        try_tracking(tracking_uri, "away")


def test_an_experiment_that_was_deleted_is_named(tracking_uri: str) -> None:
    recorder = Recorder(tracking_uri, "gone")
    recorder.client.delete_experiment(recorder.experiment_id())
    with pytest.raises(TrackingError, match=r"'gone' takes no run .*another tracking.experiment"):
        try_tracking(tracking_uri, "gone")
