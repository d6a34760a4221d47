"""A strict HTTP server for weights: files with Range and If-Range, and the Hub's API over the same files.

It also keeps If-Match, which is what an object store needs. It runs as a process of its own (`python -m tests.integration.weights.origin FOLDER [CERTIFICATE]`), prints its two addresses, and
does as told: `PUT /_faults` sets what goes wrong on which path, `GET /_log` tells every request that came. The second
address is another origin, to which the Hub's answers for large files redirect, as the real one does.

The Hub side follows the documented API: `/api/models/<repo>/revision/<revision>?blobs=true` lists names, sizes, git
blob ids and LFS hashes; `/<repo>/resolve/<revision>/<path>` serves; `X-Error-Code` tells GatedRepo, RepoNotFound,
RevisionNotFound and EntryNotFound; a repository that one may not see answers 401 without a token.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1024
COMMIT = hashlib.sha1(b"the only commit").hexdigest()
TOKEN = "hf_a-token-that-is-good"


@dataclass
class State:
    """`faults` by path: what to do wrong; `log`: what was asked and how much was answered."""

    root: Path
    second: str = ""
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def fault(self, path: str) -> dict[str, Any]:
        """The fault of a path; `times` says how often it strikes, `after` how many requests go well before."""
        with self.lock:
            found = self.faults.get(path, {})
            if found.get("after", 0) > 0:
                found["after"] -= 1
                return {}
            if "times" in found:
                if found["times"] <= 0:
                    return {}
                found["times"] -= 1
            return found

    def replace(self, faults: dict[str, dict[str, Any]]) -> None:
        with self.lock:
            self.faults = faults
            self.released.set()
            self.released = threading.Event()


def version(path: Path) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"'


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State
    main = True

    def log_message(self, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.state.replace(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(200, b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/_log":
            return self.answer(200, json.dumps(self.state.log).encode())
        self.row: dict[str, Any] = {"method": self.command, "path": path, "query": urlsplit(self.path).query, "sent": 0}
        self.row["main"] = self.main
        for name in ("Range", "If-Range", "Authorization"):
            self.row[name] = self.headers.get(name)
        with self.state.lock:
            self.state.log.append(self.row)
        fault = self.state.fault(path)
        if "status" in fault:
            return self.answer(fault["status"], b"no", fault.get("headers", {}))
        if (wanted := fault.get("authorization")) and self.headers.get("Authorization") != wanted:
            return self.answer(401, b"who are you", {"WWW-Authenticate": "Basic"})
        if path.startswith("/api/models/"):
            return self.describe_repo(path.removeprefix("/api/models/"))
        if "/resolve/" in path:
            return self.resolve(path, fault)
        return self.serve(self.state.root / fault.get("instead", path.lstrip("/")), fault)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self, file: Path, fault: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        if not file.is_file():
            return self.answer(404, b"there is no such file")
        if self.headers.get("If-Match") not in (None, version(file)):
            return self.answer(412, b"it changed")
        data = file.read_bytes()
        start, partial = 0, False
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        holds = condition in (None, version(file), formatdate(file.stat().st_mtime, usegmt=True))
        if asked and not fault.get("no_range") and holds:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, partial = int(first), True
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            end = min(int(last), len(data) - 1) if last else len(data) - 1
            whole, data = len(data), data[start : end + 1]
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{whole}")
        if not fault.get("no_validators"):
            self.send_header("ETag", version(file))
            self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        for name, value in {**(headers or {}), **fault.get("headers", {})}.items():
            self.send_header(name, value)
        chunked = fault.get("chunked", False)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data)))))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(data, fault, chunked=chunked)

    def send_body(self, data: bytes, fault: dict[str, Any], *, chunked: bool) -> None:
        """`stop_at`: the connection ends there; `hold_at`: silence from there on, until the faults change."""
        released = self.state.released
        limit = fault.get("stop_at", fault.get("hold_at", len(data)))
        try:
            for at in range(0, min(limit, len(data)), 65536):
                block = data[at : min(at + 65536, limit)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
                self.row["sent"] += len(block)
            if limit < len(data):
                self.wfile.flush()
                if "hold_at" in fault:
                    released.wait()
                self.close_connection = True
            elif chunked:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def admitted(self, repo: str, *, reading: bool) -> bool:
        """Repositories called private-* need a token to be seen; gated-* to be read."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        name = repo.rpartition("/")[2]
        hidden = name.startswith("private-") and token != TOKEN
        if hidden or not (self.state.root / repo).is_dir():
            self.refuse(404 if token == TOKEN else 401, "RepoNotFound")
            return False
        if reading and name.startswith("gated-") and token != TOKEN:
            self.refuse(403 if token else 401, "GatedRepo")
            return False
        return True

    def describe_repo(self, rest: str) -> None:
        repo, _, revision = rest.partition("/revision/")
        if not self.admitted(repo, reading=False):
            return
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        blobs = parse_qs(urlsplit(self.path).query).get("blobs") == ["true"]
        root = self.state.root / repo
        siblings = []
        for file in sorted(found for found in root.rglob("*") if found.is_file()):
            data = file.read_bytes()
            row: dict[str, Any] = {"rfilename": file.relative_to(root).as_posix()}
            if blobs:
                row |= {"size": len(data), "blobId": blob_id(data)}
                if len(data) >= LARGE:
                    row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(row)
        extra = self.state.faults.get(repo, {})
        listed = {"id": repo, "sha": COMMIT, "siblings": siblings + extra.get("siblings", []), "tags": []}
        self.answer(200, json.dumps(listed | extra.get("info", {})).encode(), {"Content-Type": "application/json"})

    def resolve(self, path: str, fault: dict[str, Any]) -> None:
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if not self.admitted(repo, reading=True):
            return
        if revision != COMMIT:
            return self.refuse(404, "RevisionNotFound")
        file = self.state.root / repo / name
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        data = file.read_bytes()
        if len(data) < LARGE:
            return self.serve(file, fault, {"X-Repo-Commit": COMMIT, "ETag": f'"{blob_id(data)}"'})
        where = f"{self.state.second}/{repo}/{name}?Signature=a-signature-nobody-should-see"
        sha256 = hashlib.sha256(data).hexdigest()
        told = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256}"'}
        self.answer(302, b"", {"Location": where, **told})


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed or has seen enough breaks its connection; that is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    state = State(root=Path(sys.argv[1]))
    first = type("First", (Handler,), {"state": state})
    second = type("Second", (Handler,), {"state": state, "main": False})
    address = os.environ.get("ORIGIN_ADDRESS", "127.0.0.1")
    servers = [Server((address, 0), kind) for kind in (first, second)]
    scheme = "http"
    if len(sys.argv) > 2:
        scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2])
        for server in servers:
            server.socket = context.wrap_socket(server.socket, server_side=True)
    addresses = [f"{scheme}://{address}:{server.server_address[1]}" for server in servers]
    state.second = addresses[1]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(addresses), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
