"""A data set hub in miniature: answers what the real clients ask a hub for, with real bytes, on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "1" * 40


def _entry(path: str, content: bytes) -> dict:
    return {
        "type": "file",
        "oid": hashlib.sha1(content).hexdigest(),
        "size": len(content),
        "path": path,
        "lastCommit": None,
        "securityFileStatus": None,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_POST(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if self.server.status:
            return self._send(self.server.status, b"out of order", has_body)
        if path == "/":
            return self._send(200, b"hub", has_body)
        match = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        )
        if match:
            return self._answer_api(match, body, url.query, has_body)
        match = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match:
            return self._answer_file(match, has_body)
        return self._missing("EntryNotFound", has_body)

    def _answer_api(self, match: re.Match, body: bytes, query: str, has_body: bool) -> None:
        repository, verb, revision, folder = match.groups()
        files = self.server.repositories.get(repository)
        if files is None:
            return self._missing("RepoNotFound", has_body)
        commit = self.server.commit_of(repository)
        if revision not in (None, "main", commit):
            return self._missing("RevisionNotFound", has_body)
        if verb == "paths-info":
            text = body.decode()
            asked = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
            answer = [_entry(name, files[name]) for name in asked if name in files]
            for name in asked:
                if any(other.startswith(name + "/") for other in files):
                    answer.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
        elif verb == "tree":
            answer = self._tree(files, folder or "", "recursive=true" in query.lower())
            if not answer and folder:
                return self._missing("EntryNotFound", has_body)
        else:
            siblings = [{"rfilename": name} for name in files]
            answer = {"id": repository, "sha": commit, "siblings": siblings, "private": False, "tags": []}
        return self._send(200, json.dumps(answer).encode(), has_body, {"Content-Type": "application/json"})

    @staticmethod
    def _tree(files: Mapping[str, bytes], folder: str, is_recursive: bool) -> list[dict]:
        prefix = f"{folder}/" if folder else ""
        answer, folders = [], set()
        for name, content in files.items():
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :].split("/")
            if len(rest) == 1 or is_recursive:
                answer.append(_entry(name, content))
            if len(rest) > 1:
                folders.add(prefix + rest[0])
        return answer + [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in sorted(folders)
        ]

    def _answer_file(self, match: re.Match, has_body: bool) -> None:
        repository, revision, name = match.groups()
        content = self.server.repositories.get(repository, {}).get(name)
        commit = self.server.commit_of(repository)
        if content is None or revision not in ("main", commit):
            return self._missing("EntryNotFound", has_body)
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._send(200, content, has_body, headers)
        first = int(asked[1])
        last = min(int(asked[2]) if asked[2] else len(content) - 1, len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(206, content[first : last + 1], has_body, headers)

    def _missing(self, code: str, has_body: bool) -> None:
        self._send(404, b'{"error": "not found"}', has_body, {"X-Error-Code": code})

    def _send(
        self, status: int, content: bytes, has_body: bool, headers: Mapping[str, str] | None = None
    ) -> None:
        if self.command != "HEAD":
            self.server.num_bytes_sent += len(content)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if has_body:
            self.wfile.write(content)


class HubServer(ThreadingHTTPServer):
    """Serves `repositories`: name of a data set to its files; `commits`: owner to the only commit."""

    daemon_threads = True

    def __init__(
        self, repositories: Mapping[str, Mapping[str, bytes]], status: int, commits: Mapping[str, str]
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.status = status
        self.commits = commits
        self.requests: list[str] = []
        self.num_bytes_sent = 0

    def commit_of(self, repository: str) -> str:
        return self.commits.get(repository.partition("/")[0], COMMIT)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(
    repositories: Mapping[str, Mapping[str, bytes]], status: int = 0, commits: Mapping[str, str] | None = None
):
    server = HubServer(repositories, status, commits or {})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
