"""What the program tells: progress as JSON lines on standard output, and the result as the termination message.

Nothing leaves the program without passing `Redactor`.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_BYTES = 4096
MESSAGE_CHARACTERS = 900
WINDOW_SECONDS = 10.0

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?<=\w)\?[\w%.~+-]+=[^\s'\"<>)]*")


class Redactor:
    """Removes what must not be told: known secrets, and the passwords and queries inside addresses."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {form for secret in secrets for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
        self._secrets = sorted((form for form in spellings if len(form) >= 4), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _QUERY.sub("?***", _USERINFO.sub("***@", text))


class Progress:
    """Counts bytes and files; safe to use from several threads.

    Bytes that an earlier run left count as done but not as speed. `clock` gives seconds and never goes back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._done = self._moved = self._files_done = self._files_total = 0
        self._total: int | None = None
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def expect(self, *, files: int, size: int | None) -> None:
        """Tells how much there is to do; `size` in bytes is None where a source does not tell it."""
        with self._lock:
            self._files_total, self._total = files, size

    def hold(self, count: int) -> None:
        """Counts bytes that are here already; a negative count takes them back."""
        with self._lock:
            self._done += count

    def moved(self, count: int) -> None:
        """Counts bytes that were just received or hashed."""
        with self._lock:
            self._done += count
            self._moved += count

    def file_done(self) -> None:
        with self._lock:
            self._files_done += 1

    def snapshot(self) -> dict[str, int | None]:
        """The figures of now; the speed is that of the last ten seconds."""
        with self._lock:
            now = self._clock()
            self._samples.append((now, self._moved))
            while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
                self._samples.popleft()
            then, moved = self._samples[0]
            speed = int((self._moved - moved) / (now - then)) if now > then else 0
            left = None
            if self._total is not None and (speed or self._done >= self._total):
                left = max(self._total - self._done, 0) // max(speed, 1)
            return {
                "bytesDone": self._done,
                "bytesTotal": self._total,
                "bytesPerSecond": speed,
                "secondsLeft": left,
                "filesDone": self._files_done,
                "filesTotal": self._files_total,
            }


class Report:
    """The program's voice. Each line holds the progress, so that the last line of a log always tells it."""

    def __init__(self, redact: Redactor, *, write: Callable[[bytes], object]) -> None:
        self.progress = Progress()
        self._redact = redact
        self._write = write

    def tick(self) -> None:
        """Tells the progress."""
        self._line({"progress": self.progress.snapshot()})

    def say(self, message: str) -> None:
        """Tells an event, with the progress."""
        self._line({"progress": self.progress.snapshot(), "message": self._short(message)})

    def failed(self, reason: str, message: str) -> dict[str, Any]:
        """The termination message of a failure."""
        return {"error": {"reason": reason, "message": self._short(message)}}

    def _short(self, message: str) -> str:
        text = self._redact(" ".join(message.split()))
        return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 1] + "…"

    def _line(self, row: Mapping[str, Any]) -> None:
        self._write((json.dumps(row, separators=(",", ":")) + "\n").encode())


def write_termination(row: Mapping[str, Any], path: str | None) -> None:
    """Writes the termination message of the container.

    Without a `path` the default is used only where the container runtime prepared it: outside a pod no file is made.
    """
    text = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > TERMINATION_BYTES:
        raise ValueError(f"a termination message of {len(text)} bytes")
    if path is None and not os.path.exists(TERMINATION_LOG):
        return
    Path(path or TERMINATION_LOG).write_bytes(text)
