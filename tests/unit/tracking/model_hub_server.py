"""A model hub in miniature that takes commits: what the real client sends is decoded and kept."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34
COMMIT = "2" * 40


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelHub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.server.visibility.setdefault(name, asked.get("visibility"))
            self.server.repositories.setdefault(name, {})
            return self._send(200, {"url": f"{self.server.endpoint}/{name}", "id": name})
        if path == "/api/validate-yaml":  # the client asks whether README.md has a header that can be read
            return self._send(200, {"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|tree|revision)/main)?", path)
        if match is None or match[1] not in self.server.repositories:
            return self._send(404, {"error": "not found"})
        return self._answer_repository(self.server.repositories[match[1]], match, body)

    def _answer_repository(self, files: dict[str, bytes], match: re.Match[str], body: bytes) -> None:
        if match[2] == "preupload":
            asked = json.loads(body)["files"]
            answer = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in asked
            ]
            return self._send(200, {"files": answer})
        if match[2] == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
                elif line["key"] == "header":
                    self.server.summaries.append(value["summary"])
            return self._send(
                200,
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.endpoint}/c/{COMMIT}"},
            )
        entries = [
            {"type": "file", "oid": "0" * 40, "size": len(content), "path": path}
            for path, content in files.items()
        ]
        if match[2] == "tree":
            return self._send(200, entries)
        siblings = [{"rfilename": path} for path in files]
        return self._send(200, {"id": match[1], "sha": COMMIT, "siblings": siblings, "tags": []})

    def _send(self, status: int, content: object) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


class ModelHub(ThreadingHTTPServer):
    """Keeps `repositories`: name to files; takes them from whoever has the token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.summaries: list[str] = []
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[ModelHub]:
    server = ModelHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
