"""APIKeys: the Secret that holds a key, its replacement, and what is true of an APIKey. Pure.

The Secret is the truth: the key itself, and in an annotation the hashes of the keys that it replaced, for as long as
those are accepted. A status that was lost is made again from it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bud.api import API_KEY, API_VERSION
from bud.api.api_key import APIKeyPhase, APIKeySpec, KeyHash
from bud.api.conditions import Verdict
from bud.engines.pod import Document
from bud.errors import InvalidError
from bud.kube.kinds import (
    FULL_NAME,
    MANAGED_BY,
    MANAGER,
    OF_NOTHING,
    OWNER_KIND,
    OWNER_NAME,
    SECRETS,
    child_name,
)
from bud.times import after, seconds_between

ACTIVE = "Active"
"""The key is accepted."""
REVOKED = "Revoked"
"""`spec.revoked` is true."""
EXPIRED = "Expired"
"""`spec.expiresAt` is over."""
SECRET_TAKEN = "NameConflict"
"""A Secret of the key's name is somebody else's."""

KEY = "key"
"""Under which name the Secret holds the key."""
SERIAL = "bud.studio/key-serial"
"""Annotation of the Secret: `spec.rotation.serial` for which its key was made."""
REPLACED = "bud.studio/replaced-keys"
"""Annotation of the Secret: hashes of earlier keys and when they end, as JSON."""

_MOST = 4
"""Hashes that are accepted at once; of more, the oldest end early."""
_SHOWN = 4
"""Characters of a key that its status shows beside the prefix."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the Secret of a key says; `key` is empty where it holds none."""

    key: str
    serial: int
    replaced: tuple[KeyHash, ...]
    owner_uids: frozenset[str]
    version: str


def identity(namespace: str, name: str) -> str:
    """The label by which the Secret of a key is told from others."""
    return child_name(API_KEY.kind, namespace, name)


def kept(secret: Mapping[str, Any], *, namespace: str, name: str) -> Kept:
    """Raises `InvalidError` for a Secret that is not the key's."""
    metadata = secret["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if (labels.get(OWNER_KIND), labels.get(OWNER_NAME)) != (API_KEY.kind, identity(namespace, name)):
        raise InvalidError(
            f"Secret {name} exists and is not this key's: delete it, rename the APIKey, or bring a key of your own "
            "with spec.hash",
            reason=SECRET_TAKEN,
        )
    return Kept(
        key=_decoded((secret.get("data") or {}).get(KEY, "")),
        serial=int(annotations.get(SERIAL, "0")) if annotations.get(SERIAL, "0").isdigit() else 0,
        replaced=_replaced(annotations.get(REPLACED, "")),
        owner_uids=frozenset(owner["uid"] for owner in metadata.get("ownerReferences") or ()),
        version=str(metadata["resourceVersion"]),
    )


@dataclass(frozen=True, slots=True)
class Owner:
    """The APIKey whose Secret is made."""

    namespace: str
    name: str
    uid: str


def secret(owner: Owner, spec: APIKeySpec, known: Kept | None, *, fresh: str, now: str) -> Document | None:
    """The Secret as it should be, with `fresh` as the end of a new key where one is needed; None when it is so already.

    It is to be applied to the very version that is known, or to none.
    """
    if known is None or not known.key:
        return _document(owner, known, f"{spec.prefix}{fresh}", serial=spec.rotation.serial)
    if spec.rotation.serial > known.serial:
        ended = KeyHash(hash=_hash(known.key), expires_at=after(now, spec.rotation.overlap_seconds))
        replaced = (ended, *_alive(known.replaced, now))[: _MOST - 1]
        return _document(owner, known, f"{spec.prefix}{fresh}", serial=spec.rotation.serial, replaced=replaced)
    if owner.uid not in known.owner_uids:
        # A restore gives the owner another uid: without this, the Secret would be taken for an orphan, and deleted.
        return _document(owner, known, known.key, serial=known.serial, replaced=known.replaced)
    return None


def accepted(spec: APIKeySpec, known: Kept | None, *, now: str) -> tuple[KeyHash, ...]:
    """Hashes of the keys that are accepted now."""
    if spec.hash is not None:
        return (KeyHash(hash=spec.hash),)
    if known is None or not known.key:
        return ()
    return (KeyHash(hash=_hash(known.key)), *_alive(known.replaced, now))


def next_look(spec: APIKeySpec, hashes: Iterable[KeyHash], *, now: str) -> float | None:
    """Seconds until the next key ends by itself."""
    ends = (spec.expires_at, *(known.expires_at for known in hashes))
    left = (seconds_between(now, end) for end in ends if end)
    return min((seconds for seconds in left if seconds > 0), default=None)


def verdict(spec: APIKeySpec, name: str, *, now: str) -> tuple[APIKeyPhase, Verdict]:
    """Phase and condition of a key whose Secret is as it should be; `now` is RFC 3339."""
    if spec.revoked:
        return "Revoked", Verdict(False, REVOKED, "the key is refused, as spec.revoked asks")
    if spec.expires_at is not None and seconds_between(now, spec.expires_at) <= 0:
        return "Expired", Verdict(False, EXPIRED, f"the key ended at {spec.expires_at}: set a later spec.expiresAt")
    where = f"Secret {name} holds the key as {KEY}" if spec.hash is None else "the key is the one of spec.hash"
    return "Active", Verdict(True, ACTIVE, where)


def hint(spec: APIKeySpec, known: Kept | None) -> str:
    """How the key begins, to tell it from others; empty for one that was brought."""
    return f"{known.key[: len(spec.prefix) + _SHOWN]}…" if spec.hash is None and known is not None else ""


def _document(
    owner: Owner, known: Kept | None, key: str, *, serial: int = 0, replaced: tuple[KeyHash, ...] = ()
) -> Document:
    told = orjson.dumps([one.model_dump(by_alias=True) for one in replaced]).decode()
    return {
        "apiVersion": SECRETS.api_version,
        "data": {KEY: base64.b64encode(key.encode()).decode()},
        "kind": SECRETS.kind,
        "metadata": {
            "annotations": {FULL_NAME: owner.name, REPLACED: told, SERIAL: str(serial)},
            "labels": {
                MANAGED_BY: MANAGER,
                OWNER_KIND: API_KEY.kind,
                OWNER_NAME: identity(owner.namespace, owner.name),
            },
            "name": owner.name,
            "namespace": owner.namespace,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "controller": True,
                    "kind": API_KEY.kind,
                    "name": owner.name,
                    "uid": owner.uid,
                }
            ],
            "resourceVersion": known.version if known is not None else OF_NOTHING,
        },
        "type": "Opaque",
    }


def _alive(hashes: Iterable[KeyHash], now: str) -> tuple[KeyHash, ...]:
    return tuple(known for known in hashes if known.expires_at and seconds_between(now, known.expires_at) > 0)


def _replaced(text: str) -> tuple[KeyHash, ...]:
    """What the annotation says; what a person wrote into it in other words counts as nothing."""
    try:
        return tuple(KeyHash.model_validate(item) for item in orjson.loads(text or "[]"))
    except (ValueError, TypeError):
        return ()


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode().strip()
    except ValueError:
        return ""


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
