"""APIKeys: the Secret that holds a key, its replacement, and what is true of an APIKey. Pure.

The status is the truth of which keys are accepted: what becomes of the Secret ends no key and makes none. In the Secret
are the key itself, and in annotations for which serial it was made and the hashes of the keys that it replaced: a
status that was lost, or not written after a replacement, is made again from it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bud.api import API_KEY, API_VERSION
from bud.api.api_key import MOST_SERIAL, APIKeyPhase, APIKeySpec, APIKeyStatus, KeyHash
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
SECRET_MISSING = "SecretMissing"
"""The key is accepted, and the Secret that was made with it is gone."""
SECRET_CHANGED = "SecretChanged"
"""The key is accepted, and its Secret holds something else."""

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


@dataclass(frozen=True, slots=True)
class Made:
    """The key that was made and is accepted: its hash, those of the keys it replaced, its serial and its hint."""

    hashes: tuple[KeyHash, ...]
    serial: int
    hint: str


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
        serial=_serial(annotations.get(SERIAL, "")),
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


def made(spec: APIKeySpec, status: APIKeyStatus, known: Kept | None) -> Made | None:
    """The key in use; None where none was made.

    It is the one of the status: a Secret that is gone or was edited ends no key. Only where the status tells of
    none, as after a restore, or does not know yet of a replacement that `spec` asked for, is the Secret believed.
    """
    told = Made(status.hashes, status.serial, status.hint) if status.hint and status.hashes else None
    if known is None or not known.key:
        return told
    if told is None or told.serial < known.serial <= spec.rotation.serial:
        shown = f"{known.key[: len(spec.prefix) + _SHOWN]}…"
        return Made((KeyHash(hash=_hash(known.key)), *known.replaced), known.serial, shown)
    return told


def secret(
    owner: Owner, spec: APIKeySpec, known: Kept | None, *, used: Made | None, fresh: str, now: str
) -> Document | None:
    """The Secret as it should be, with `fresh` as the end of a new key where one is needed; None when it stays.

    A new key is needed where none is in use (`used`), or a replacement is asked for, and never because a Secret is
    gone. It is to be applied to the very version that is known, or to none.
    """
    if used is None:
        return _document(owner, known, f"{spec.prefix}{fresh}", serial=spec.rotation.serial)
    if spec.rotation.serial > used.serial:
        ended = KeyHash(hash=used.hashes[0].hash, expires_at=after(now, spec.rotation.overlap_seconds))
        replaced = (ended, *_alive(used.hashes[1:], now))[: _MOST - 1]
        return _document(owner, known, f"{spec.prefix}{fresh}", serial=spec.rotation.serial, replaced=replaced)
    if known is not None and owner.uid not in known.owner_uids:
        # A restore gives the owner another uid: without this, the Secret would be taken for an orphan, and deleted.
        return _document(owner, known, known.key, serial=known.serial, replaced=known.replaced)
    return None


def accepted(spec: APIKeySpec, used: Made | None, *, now: str) -> tuple[KeyHash, ...]:
    """Hashes of the keys that are accepted now."""
    if spec.hash is not None:
        return (KeyHash(hash=spec.hash),)
    if used is None:
        return ()
    return (used.hashes[0], *_alive(used.hashes[1:], now))


def lack(known: Kept | None, used: Made | None) -> str:
    """Why the Secret does not hold the key in use, as a reason; empty where it does, or no key was made."""
    if used is None:
        return ""
    if known is None:
        return SECRET_MISSING
    return "" if _hash(known.key) == used.hashes[0].hash else SECRET_CHANGED


def next_look(spec: APIKeySpec, hashes: Iterable[KeyHash], *, now: str) -> float | None:
    """Seconds until the next key ends by itself."""
    ends = (spec.expires_at, *(known.expires_at for known in hashes))
    left = (seconds_between(now, end) for end in ends if end)
    return min((seconds for seconds in left if seconds > 0), default=None)


def verdict(spec: APIKeySpec, name: str, *, now: str, lacks: str = "", serial: int = 0) -> tuple[APIKeyPhase, Verdict]:
    """Phase and condition of a key; `lacks` is what `lack` says, `serial` that of the key in use, `now` RFC 3339.

    A key whose Secret is gone is accepted as before, and so Active and Ready: only the reason is another.
    """
    if spec.revoked:
        return "Revoked", Verdict(False, REVOKED, "the key is refused, as spec.revoked asks")
    if spec.expires_at is not None and seconds_between(now, spec.expires_at) <= 0:
        return "Expired", Verdict(False, EXPIRED, f"the key ended at {spec.expires_at}: set a later spec.expiresAt")
    if spec.hash is not None:
        return "Active", Verdict(True, ACTIVE, "the key is the one of spec.hash")
    if lacks:
        what = "is gone" if lacks == SECRET_MISSING else "no longer holds the key"
        remedy = f"set spec.rotation.serial to {serial + 1} for a new one beside it, or delete the APIKey"
        return "Active", Verdict(
            True, lacks, f"Secret {name} {what}; the key that was made is still accepted: {remedy}"
        )
    return "Active", Verdict(True, ACTIVE, f"Secret {name} holds the key as {KEY}")


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


def _serial(text: str) -> int:
    """What the annotation says; what `spec.rotation.serial` cannot be counts as 0."""
    serial = int(text) if re.fullmatch("[0-9]{1,7}", text) else 0
    return serial if serial <= MOST_SERIAL else 0


def _replaced(text: str) -> tuple[KeyHash, ...]:
    """What the annotation says; what a person wrote into it in other words counts as nothing."""
    try:
        return tuple(KeyHash.model_validate(item) for item in orjson.loads(text or "[]"))[: _MOST - 1]
    except (ValueError, TypeError):
        return ()


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode().strip()
    except ValueError:
        return ""


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
