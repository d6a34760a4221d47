"""Serves a folder's files by `sendfile`, ranges included: `python -m tests.bench.file_server FOLDER`; prints its port."""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BLOCK = 4 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        with (Path(sys.argv[1]) / Path(self.path).name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            start, end = int(first or 0), int(last) + 1 if last else size
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("ETag", f'"{size}"')
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            while start < end:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, min(end - start, BLOCK))


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has what it wants breaks its connection; that is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
