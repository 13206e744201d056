"""Addresses of tracking servers: what is refused, in one line, before any work."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillation.errors import TrackingError
from tracking.server import artifact_location, check_tracking_server, redact, tracking_errors


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def server() -> Iterator[tuple[str, type[http.server.BaseHTTPRequestHandler]]]:
    class Handler(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(type(self).status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}", Handler
    listener.shutdown()
    listener.server_close()


def test_a_silent_server_is_named_quickly(closed_port: int) -> None:
    begin = time.monotonic()
    with pytest.raises(
        TrackingError, match=f"tracking.uri = http://127.0.0.1:{closed_port}: the server"
    ) as info:
        check_tracking_server(f"http://127.0.0.1:{closed_port}")
    assert time.monotonic() - begin < 5
    assert "\n" not in str(info.value)
    assert "start it" in str(info.value)


def test_a_server_that_accepts_and_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(TrackingError, match="does not answer"):
            check_tracking_server(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3)


def test_answers_count_and_server_faults_do_not(server: tuple[str, type]) -> None:
    uri, handler = server
    for status in (200, 401, 404):
        handler.status = status  # type: ignore[attr-defined]
        check_tracking_server(uri)
    handler.status = 503  # type: ignore[attr-defined]
    with pytest.raises(TrackingError, match="status 503"):
        check_tracking_server(uri)


def test_a_database_in_a_new_folder_is_fine_and_another_file_is_not(tmp_path: Path) -> None:
    check_tracking_server(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    other = tmp_path / "notes.txt"
    other.write_text("not a database " * 100)
    with pytest.raises(TrackingError, match="cannot be opened"):
        check_tracking_server(f"sqlite:///{other}")
    with pytest.raises(TrackingError, match="cannot be opened"):
        check_tracking_server(f"sqlite:///{other}/mlflow.db")
    assert other.read_text() == "not a database " * 100


@pytest.mark.parametrize("uri", ["mlruns", "file:///some/mlruns", "./runs", "ftp:x"])
def test_folders_are_refused_with_the_remedy(uri: str) -> None:
    with pytest.raises(TrackingError, match="sqlite:///FILE"):
        check_tracking_server(uri)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_PASSWORD") as info:
        check_tracking_server("https://anna:hunter2@mlflow.example:443")
    assert "hunter2" not in str(info.value)
    assert redact("https://anna:hunter2@mlflow.example:443/x") == "https://anna:***@mlflow.example:443/x"
    assert redact("http://localhost:5000") == "http://localhost:5000"


def test_failures_of_the_library_become_one_line() -> None:
    from mlflow.exceptions import MlflowException

    with (
        pytest.raises(TrackingError, match=r"http://h:1 failed: no such\s") as info,
        tracking_errors("http://h:1"),
    ):
        raise MlflowException("no such\nthing")
    assert "\n" not in str(info.value)
    with pytest.raises(KeyError), tracking_errors("http://h:1"):
        raise KeyError("a fault of ours keeps its traceback")


def test_files_of_runs_lie_beside_a_local_database(tmp_path: Path) -> None:
    assert artifact_location(f"sqlite:///{tmp_path}/mlflow.db") == (tmp_path / "mlflow_artifacts").as_uri()
    assert artifact_location("http://localhost:5000") is None
