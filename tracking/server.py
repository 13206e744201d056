"""Which tracking server is used, whether it answers, and how its failures reach the user.

A server is asked once, briefly, before any work starts. MLflow's own client would repeat a failing request
for minutes, so its patience is lowered wherever the user has not set it himself.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distillation.errors import TrackingError, one_line, reason_of, shorten
from distillation.files import refusal_of, storage_error
from distillation.redaction import scrub, secret_in

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from zenml.models import StackResponse
    from zenml.stack import Stack

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

    return _address_of(Client().active_stack)


def tracking_uri_of(model: StackResponse) -> str:
    """Return the address of the experiment tracker of a stack, active or not.

    Raises:
        TrackingError: the stack has no MLflow experiment tracker.
    """
    from zenml.stack import Stack

    return _address_of(Stack.from_model(model))


def _address_of(stack: Stack) -> str:
    tracker = stack.experiment_tracker
    address = getattr(tracker, "get_tracking_uri", None)
    if address is None:
        raise TrackingError(
            f"stack {stack.name} has no MLflow experiment tracker: run distil stack and use "
            "-s local, or set tracking.uri"
        )
    return str(address())


def check_tracking_server(uri: str, *, timeout: float = 3.0) -> None:
    """Ask the server once whether it is there.

    Raises:
        TrackingError: it does not answer within `timeout` seconds, or `uri` cannot be used.
    """
    found = secret_in(uri)
    if found is not None:
        raise TrackingError(
            f"tracking.uri = {scrub(uri)}: it holds {found}; put it in the environment as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or as MLFLOW_TRACKING_TOKEN"
        )
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise TrackingError(f"tracking.uri = {uri}: is no address ({error}); use http://HOST:PORT") from None
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
    # Our own line says once what these say at length.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
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
        refused = None
        if uri.startswith(_SQLITE):
            refused = storage_error(error, {uri.removeprefix(_SQLITE): "tracking.uri"})
        told = f"{request_reason(error)}; see that it runs" if refused is None else one_line(refused)
        raise TrackingError(
            f"tracking server {uri} failed: {told}, then start again: finished steps are reused"
        ) from error


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
        refused = refusal_of(path)
        if refused is not None:
            raise refused
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"tracking.uri = {uri}: cannot be opened ({reason_of(error)}); "
            "name a database file in a folder that you can write"
        ) from None


def _check_http(uri: str, timeout: float) -> None:
    """Ask with MLflow's own client, so that certificates, logins, proxies count as they do for the runs."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(
            get_default_host_creds(uri.rstrip("/")),
            "/health",
            "GET",
            max_retries=0,
            timeout=timeout,
            raise_on_status=False,
        )
    except (MlflowException, OSError, ValueError) as error:
        raise _silent(uri, request_reason(error)) from None
    if answer.status_code >= 500:  # below, it is there; whether it lets us in shows with the first record
        raise _silent(uri, f"status {answer.status_code}")


def _check_socket(uri: str, timeout: float) -> None:
    parts = urlsplit(uri)
    ports = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
    port = parts.port or ports.get(parts.scheme.split("+")[0])
    if parts.hostname is None or port is None:
        raise TrackingError(f"tracking.uri = {uri}: names no host and port; use http://HOST:PORT")
    try:
        socket.create_connection((parts.hostname, port), timeout=timeout).close()
    except OSError as error:
        raise _silent(uri, reason_of(error)) from None


def _silent(uri: str, reason: str) -> TrackingError:
    remedy = "start it"
    if _CERTIFICATE in reason:
        remedy = (
            "name the certificate that it shows, or its issuer's, in MLFLOW_TRACKING_SERVER_CERT_PATH (or in "
            "REQUESTS_CA_BUNDLE)"
        )
    return TrackingError(
        f"tracking.uri = {uri}: the server does not answer ({reason}); {remedy}, or leave tracking.uri out "
        "to record in the stack's own store"
    )


_CERTIFICATE = "its certificate is not trusted"


def request_reason(error: BaseException) -> str:
    """Return why a request failed; MLflow wraps what its transport said, which says it in three layers."""
    text = one_line(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return _CERTIFICATE
    if "timed out" in text or "timeout" in text:
        return "no answer in time"
    if "Max retries exceeded" in text:
        said = re.search(r"\[(?:Errno -?\d+\] |SSL: )([^]\"')]+)", text)
        return said[1] if said else "no answer"
    return shorten(text)
