"""Addresses of tracking servers: what is refused, in one line, before any work."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillation.errors import TrackingError
from tracking.server import artifact_location, check_tracking_server, tracking_errors


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def server() -> Iterator[tuple[str, type[http.server.BaseHTTPRequestHandler]]]:
    class Handler(http.server.BaseHTTPRequestHandler):
        status = 200
        authorization: str | None = None

        def do_GET(self) -> None:
            type(self).authorization = self.headers["Authorization"]
            self.send_response(type(self).status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
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


@pytest.mark.parametrize(
    "uri",
    [
        "https://anna:hunter2@mlflow.example:443",
        "http://hunter2@localhost:5000",
        "http://localhost:5000?token=hunter2",
        "http://localhost:5000/?x=1&api_key=hunter2",
        "postgresql://anna:hunter2/@db.example/mlflow",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_PASSWORD") as info:
        check_tracking_server(uri)
    assert "hunter2" not in str(info.value)
    assert "***" in str(info.value)


def test_what_is_no_address_is_one_line() -> None:
    with pytest.raises(TrackingError, match="is no address"):
        check_tracking_server("http://[::1")


@pytest.fixture
def tls_server(
    server: tuple[str, type], tmp_path: Path
) -> Iterator[tuple[str, Path, type[http.server.BaseHTTPRequestHandler]]]:
    """A server behind a certificate that nobody has signed: its address, the certificate, its handler."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = http.server.HTTPServer(("127.0.0.1", 0), server[1])
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://127.0.0.1:{listener.server_port}", certificate, server[1]
    listener.shutdown()
    listener.server_close()


def write_certificate(certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.mark.parametrize(
    "variable", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "MLFLOW_TRACKING_INSECURE_TLS"]
)
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_counts_as_it_does_for_mlflow(
    tls_server: tuple[str, Path, type], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, certificate, _ = tls_server
    with pytest.raises(TrackingError, match=r"certificate is not trusted.*MLFLOW_TRACKING_SERVER_CERT_PATH"):
        check_tracking_server(uri)
    monkeypatch.setenv(variable, "true" if variable.endswith("TLS") else str(certificate))
    check_tracking_server(uri)


def test_the_check_logs_in_as_mlflow_does(server: tuple[str, type], monkeypatch: pytest.MonkeyPatch) -> None:
    uri, handler = server
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2hunter2")
    check_tracking_server(uri)
    assert handler.authorization == "Basic " + base64.b64encode(b"anna:hunter2hunter2").decode()  # type: ignore[attr-defined]


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
