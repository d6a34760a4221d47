"""One request of a caller, and what is sent to it whatever comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from bud.gateway.bodies import Share
from bud.gateway.catalog import Meter
from bud.gateway.idempotency import Kept
from bud.gateway.limits import State, headers
from bud.gateway.metrics import Facts
from bud.gateway.refusal import Invalid
from bud.gateway.tracing import UNTOLD, Trace

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

JSON_BYTES = 25 * 1024 * 1024
"""The most that a JSON body may have."""


class Gone(Exception):
    """The caller has hung up."""


@dataclass(slots=True)
class Request:
    """`begun` says whether an answer is on its way, and `streams` that it is one of events.

    `states` are the limits to tell of: until something was taken of them None, and what is `known` is told. `untaken`
    are those of which nothing was taken. `began` is in epoch seconds.
    """

    scope: MutableMapping[str, Any]
    receive: Callable[[], Awaitable[Message]]
    send: Send
    id: str
    began: float
    begun: bool = False
    streams: bool = False
    states: tuple[State, ...] | None = None
    known: Callable[[], tuple[State, ...]] = tuple
    untaken: tuple[Meter, ...] = ()
    facts: Facts = field(default_factory=Facts)
    trace: Trace = UNTOLD
    kept: Kept | None = None
    headers: dict[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = dict(self.scope["headers"])

    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer carries."""
        return [(b"x-request-id", self.id.encode()), *headers(self.known() if self.states is None else self.states)]

    async def tell(self, message: Message) -> None:
        """A part of the answer, on its way to the caller and into what is kept of it."""
        if self.kept is not None:
            self.kept.take(message)
        await self.send(message)

    async def replay(self, kept: Kept) -> None:
        """The answer that the same request had before. Raises `Invalid` (409) while there is none."""
        body = kept.whole()
        headers = [*kept.headers, *self.own_headers(), (b"idempotent-replayed", b"true")]
        self.facts.status = kept.status
        await self.send({"type": "http.response.start", "status": kept.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def body(self, share: Share, most: int = JSON_BYTES) -> bytes:
        """All of it, in its `share`. Raises `Invalid` (413) for more than `most` bytes, `Unavailable`, and `Gone`."""
        told = self.headers.get(b"content-length", b"")
        if told.isdigit() and int(told) > most:
            raise too_large(most)
        chunks, size = list[bytes](), 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > most:
                raise too_large(most)
            share.grow(size)
            if not message.get("more_body"):
                return b"".join(chunks)


def too_large(most: int) -> Invalid:
    """The refusal (413) of a body of more than so many bytes."""
    return Invalid(f"the body is larger than {most // (1024 * 1024)} MiB", code="request_too_large", status=413)
