"""Why a download ended: one tree of failures, each with a reason for machines and a message for people."""

from __future__ import annotations

from collections.abc import Mapping

RETRIED_STATUSES = frozenset({408, 425, 429})


class Failure(Exception):
    """What stopped the download. `reason` is CamelCase and stable; `message` says what happened and the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Permanent(Failure):
    """Trying again cannot help: someone has to change the spec, the Secret or the source."""


class Transient(Failure):
    """Trying again may help. `retry_after`: seconds the server asked to wait, if it did."""

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


def refused(status: int, headers: Mapping[str, str], what: str) -> Failure:
    """The failure that an HTTP status stands for, where no source has a better explanation."""
    if status in RETRIED_STATUSES or status >= 500:
        reason = "TooManyRequests" if status == 429 else "ServerError"
        remedy = (
            "it limits how often it is asked: raise that limit, or use credentials with a higher one"
            if status == 429
            else "the fault is the server's: see its log, or use another source"
        )
        return Transient(reason, f"{what}: the server answered {status}; {remedy}", retry_after=_seconds(headers))
    if status == 401:
        return Permanent("Unauthorized", f"{what}: the server answered 401 Unauthorized")
    if status == 403:
        return Permanent("Forbidden", f"{what}: the server answered 403 Forbidden")
    if status in (404, 410):
        return Permanent("NotFound", f"{what}: the server answered {status} Not Found")
    return Permanent("Refused", f"{what}: the server answered {status}")


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds (RFC 9110, 10.2.3); its date form is left to the usual backoff."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isdigit() else None
