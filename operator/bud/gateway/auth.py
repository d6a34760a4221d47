"""Who calls: the key, by its SHA-256 alone, and the request's id."""

from __future__ import annotations

import hashlib
import hmac
import random
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

from bud.gateway.catalog import Catalog, Key
from bud.gateway.refusal import Unauthenticated, Unavailable

_ID = re.compile(rb"[!-~]{1,128}")


def authenticate(headers: Mapping[bytes, bytes], catalog: Catalog, *, now: float) -> Key:
    """The key of `Authorization: Bearer`. Raises `Unauthenticated`, and `Unavailable` where no key can be judged."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    given = given.strip()
    if scheme.lower() != b"bearer" or not given:
        raise Unauthenticated(
            "no API key was given: send the header Authorization: Bearer YOUR_API_KEY",
            headers={"www-authenticate": "Bearer"},
        )
    return known(catalog, hashlib.sha256(given).hexdigest(), now=now)


def known(catalog: Catalog, digest: str, *, now: float) -> Key:
    """The key of a hash. Raises as `authenticate` does."""
    if catalog.fault:
        raise Unavailable(catalog.fault, code="keys_unknown")
    key = catalog.keys.get(digest)
    if key is None or not hmac.compare_digest(key.hash, digest):
        raise Unauthenticated("the API key is not known; it may have been revoked")
    if key.ends is not None and key.ends <= now:
        raise Unauthenticated("the API key has expired", code="expired_api_key")
    return key


def request_id(scope: MutableMapping[str, Any]) -> str:
    """The caller's `X-Request-ID`, if it is printable ASCII of at most 128 characters; else a new one, for good."""
    known: str | None = scope.get("bud.id")
    if known is None:
        given = (value for name, value in scope["headers"] if name == b"x-request-id" and _ID.fullmatch(value))
        known = scope["bud.id"] = str(next(given, b""), "ascii") or f"req-{random.getrandbits(128):032x}"
    return known
