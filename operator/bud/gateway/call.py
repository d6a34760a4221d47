"""One request on its way: what it asks, who is asked, and what it used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bud.gateway.admission import Admitted
from bud.gateway.catalog import OWN, Key, Price, Served, Target
from bud.gateway.cut import Cut
from bud.gateway.mask import masked
from bud.gateway.naming import Naming
from bud.gateway.prices import Published
from bud.gateway.request import Request
from bud.gateway.route import Turn
from bud.gateway.translate.wire import Sent
from bud.gateway.upstream import sent
from bud.gateway.usage import Usage, cost, is_known


@dataclass(slots=True)
class Call:
    """What is known of a request on its way."""

    request: Request
    key: Key
    served: Served
    endpoint: str
    body: dict[str, Any]
    text: bytes
    admitted: Admitted
    usage: Usage
    target: Target | None = None
    asked: Target | None = None
    """What is asked, unless it could not answer."""
    turn: Turn | None = None
    """At the address that is asked."""
    naming: Naming | None = None
    """Of the answer, once it has come."""
    cut: Cut = field(default_factory=Cut)

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True

    def sent(self, target: Target) -> Sent:
        """The request for a target. Raises `Refusal` for what it cannot be asked."""
        request = self.request
        return sent(self.endpoint, self.body, self.text, target=target, id=request.id, now=request.began)

    def is_at(self, target: Target | None, turn: Turn | None) -> None:
        """It is asked of a target now, or of none, since the last could not answer."""
        self.asked, self.turn = target, turn

    def price(self, target: Target) -> Price | Published | None:
        """What it costs at a target: what the name says, or else the target."""
        return self.served.price or target.price

    def used(self) -> Usage:
        """What it used, with the time until it is first asked for this."""
        if self.usage.seconds is None and self.turn is not None:
            self.usage.seconds = self.turn.seconds()
        return self.usage

    @property
    def asks_usage(self) -> bool:
        """Whether the upstream is asked for usage at the end of the stream."""
        return self.streams and self.endpoint in ("chat/completions", "completions")

    @property
    def shows_usage(self) -> bool:
        """Whether the caller asked for usage at the end of the stream."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def tells_metadata(self) -> bool:
        """Whether the project wants answers to say who gave them."""
        return self.key.project.response_metadata

    def metadata(self, usage: Usage, *, now: float) -> dict[str, Any]:
        """`conduit_metadata`."""
        assert self.target is not None
        price = self.price(self.target)
        return {
            "provider": self.target.provider,
            "model_version": self._version(self.target),
            "virtual_key_id": self.key.uid,
            "request_id": self.request.id,
            "processing_time_ms": round((now - self.request.began) * 1000),
            "cost": cost(price, usage) if is_known(price, usage) else None,
        }

    def _version(self, target: Target) -> str:
        """What the upstream calls the model that answered, as far as it has told; of a Deployment its own name."""
        said = self.naming.version if self.naming is not None else None
        if said is None or target.provider == OWN:
            return target.model
        return masked(said.encode(), target.secrets).decode()
