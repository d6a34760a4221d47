"""Both sides of a gateway, byte by byte: a caller that sends what it likes, and an upstream that keeps what it got."""

from __future__ import annotations

import http.client
import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SECONDS = 20.0
ANSWER = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'


@dataclass
class RawUpstream:
    """`asked` holds each request as it came: its head, and its body by the length that was told."""

    port: int = 0
    head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    body: bytes = ANSWER
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)
    strange: list[bytes] = field(default_factory=list)
    """What came on a connection beside whole requests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def serve(self, caller: socket.socket) -> None:
        with caller, caller.makefile("rb") as stream:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        self.strange += [head] if head else []
                        return
                    head += line
                found = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
                self.asked.append((head, stream.read(int(found[1])) if found else b""))
                caller.sendall(self.head + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body)


@contextmanager
def raw_upstream() -> Iterator[RawUpstream]:
    """It serves in threads while the block runs."""
    upstream = RawUpstream()

    def work(listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=upstream.serve, args=(caller,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream.port = listener.getsockname()[1]
        thread = threading.Thread(target=work, args=(listener,), daemon=True)
        thread.start()
        yield upstream
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@dataclass(frozen=True)
class Told:
    """An answer to a raw request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def talk(port: int, *pieces: bytes) -> list[Told]:
    """What is answered, until the gateway ends the connection."""
    with connected(port) as caller:
        for piece in pieces:
            try:
                caller.sendall(piece)
            except OSError:
                break
        return answers(received(caller))


def received(caller: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    found = b""
    while True:
        try:
            data = caller.recv(65536)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data


def answers(data: bytes) -> list[Told]:
    """The answers in what came, each of a length that it told."""
    stream, found = io.BytesIO(data), list[Told]()
    while stream.tell() < len(data):
        status = int(stream.readline().split()[1])
        headers = http.client.parse_headers(stream)
        found.append(Told(status, headers, stream.read(int(headers.get("content-length", 0)))))
    return found
