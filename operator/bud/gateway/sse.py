"""Server-sent events: bytes as they come, and what an event holds. Pure.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html, with lines that end in LF or CR LF.
"""

from __future__ import annotations

_MOST = 16 * 1024 * 1024
_MOST_BEFORE_DATA = 64 * 1024
"""What comes before an event's data are comments, names and ids."""


class TooLong(OSError):
    """An event is longer than any that is meant."""


class Splitter:
    """Bytes as they come, into whole events; each byte is looked at a few times, however many chunks an event has."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._half = b""
        """What follows that, and may be half of an event's end."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Events that are now whole, without the empty line at their end. Raises `TooLong`."""
        text = self._half + chunk if self._half else chunk
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *whole, rest = text.split(b"\n\n")
        if whole and self._held:
            whole[0] = b"".join((self._held, whole[0]))
            self._held.clear()
        if rest or self._half:
            self._hold(rest)
        return whole

    def _hold(self, rest: bytes) -> None:
        half = 2 if rest.endswith(b"\n\r") else int(rest.endswith((b"\n", b"\r")))
        before, at = len(self._held), len(rest) - half
        self._held += rest[:at]
        self._half = rest[at:]
        size = len(self._held)
        if size > _MOST or (before <= _MOST_BEFORE_DATA < size and not _has_data(self._held)):
            raise TooLong

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not whole yet."""
        return bytes(self._held) + self._half


def _has_data(event: bytearray) -> bool:
    return event.startswith(b"data:") or b"\ndata:" in event


def data_of(event: bytes) -> bytes | None:
    """The data of an event; None when it has none, as a comment that keeps the connection alive."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def with_data(event: bytes, before: bytes, data: bytes) -> bytes:
    """The event as it is sent, with other data than `before`; its name and id stay."""
    if data == before:
        return event + b"\n\n"
    others = [line for line in event.split(b"\n") if not line.startswith(b"data:")]
    told = [b"data: " + line for line in data.split(b"\n")]
    return b"\n".join([*others, *told, b"", b""])
