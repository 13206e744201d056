"""Which tracking server is used, whether it answers, and how its failures reach the user.

A server is asked once, briefly, before any work starts. MLflow's own client would repeat a failing request
for minutes, so its patience is lowered wherever the user has not set it himself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distillation.errors import TrackingError, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def resolve_tracking_uri(setting: str | None) -> str:
    """Return `tracking.uri` if it is set, else the address of the active stack's experiment tracker.

    Raises:
        TrackingError: the stack has no MLflow experiment tracker.
    """
    if setting is not None:
        return setting
    from zenml.client import Client

    stack = Client().active_stack
    tracker = stack.experiment_tracker
    address = getattr(tracker, "get_tracking_uri", None)
    if address is None:
        raise TrackingError(
            f"stack {stack.name} has no MLflow experiment tracker: run python -m stacks.local and use "
            "-s local, or set tracking.uri"
        )
    return str(address())


def check_tracking_server(uri: str, *, timeout: float = 3.0) -> None:
    """Ask the server once whether it is there.

    Raises:
        TrackingError: it does not answer within `timeout` seconds, or `uri` cannot be used.
    """
    parts = urlsplit(uri)
    if parts.password:
        raise TrackingError(
            f"tracking.uri = {redact(uri)}: it holds a password; put it in the environment as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if uri.startswith(_SQLITE):
        _check_sqlite(uri)
    elif parts.scheme in ("http", "https"):
        _check_http(uri, timeout)
    elif parts.hostname:
        _check_socket(uri, timeout)
    elif parts.scheme != "databricks" and uri != "databricks":
        raise TrackingError(
            f"tracking.uri = {uri}: must be http://HOST:PORT or sqlite:///FILE; "
            "MLflow keeps no runs in folders"
        )


def connect(uri: str) -> MlflowClient:
    """Return a client of the server at `uri` that gives up after seconds, not minutes."""
    import logging

    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # our own line says it once
    from mlflow import MlflowClient

    with tracking_errors(uri):
        if uri.startswith(_SQLITE):
            Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn whatever a failing server raises into one line that names it.

    Raises:
        TrackingError: in place of the errors of MLflow, of its transport and of its database.
    """
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        text = _short(error)
        reason = "no answer" if "Max retries exceeded" in one_line(error) else text
        raise TrackingError(
            f"tracking server {redact(uri)} failed: {reason}; see that it runs, then start again: "
            "finished steps are reused"
        ) from error


def redact(uri: str) -> str:
    """Return `uri` without a password, for messages and records."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    host = parts.hostname or ""
    place = f"{host}:{parts.port}" if parts.port else host
    return parts._replace(netloc=f"{parts.username}:***@{place}").geturl()


def artifact_location(uri: str) -> str | None:
    """Return where a new experiment keeps its files: beside a local database, else the server decides."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlflow_artifacts").as_uri()


def _check_sqlite(uri: str) -> None:
    path = Path(uri.removeprefix(_SQLITE))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"tracking.uri = {uri}: cannot be opened ({_short(error)}); "
            "name a database file in a folder that you can write"
        ) from None


def _check_http(uri: str, timeout: float) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it is there; whether it lets us in shows with the first record
            return
        reason = f"status {error.code}"
    except (OSError, ValueError) as error:
        reason = _short(error)
    raise _silent(uri, reason)


def _check_socket(uri: str, timeout: float) -> None:
    parts = urlsplit(uri)
    ports = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
    port = parts.port or ports.get(parts.scheme.split("+")[0])
    if parts.hostname is None or port is None:
        raise TrackingError(f"tracking.uri = {uri}: names no host and port; use http://HOST:PORT")
    try:
        socket.create_connection((parts.hostname, port), timeout=timeout).close()
    except OSError as error:
        raise _silent(uri, _short(error)) from None


def _silent(uri: str, reason: str) -> TrackingError:
    return TrackingError(
        f"tracking.uri = {uri}: the server does not answer ({reason}); start it, or leave tracking.uri out "
        "to record in the stack's own store"
    )


def _short(error: BaseException) -> str:
    text = one_line(error)
    return text if len(text) <= 160 else text[:157] + "..."
