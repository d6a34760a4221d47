"""Keys: the Secret that holds one, its replacement, and which hashes are accepted when."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from bud.access.key import (
    REPLACED,
    SECRET_CHANGED,
    SECRET_MISSING,
    SERIAL,
    Kept,
    Made,
    Owner,
    accepted,
    kept,
    lack,
    made,
    next_look,
    secret,
    verdict,
)
from bud.api.api_key import APIKeySpec, APIKeyStatus, KeyHash
from bud.errors import InvalidError
from bud.kube.kinds import OF_NOTHING

NOW = "2026-11-22T12:00:00Z"
OWNER = Owner("team", "alice", "uid-1")
KEPT = Kept("bud_old", 0, (), frozenset({"uid-1"}), "7")
NO_STATUS = APIKeyStatus()


def spec(**fields: Any) -> APIKeySpec:
    return APIKeySpec.model_validate(fields)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


OLD, NEW, FORMER = (KeyHash(hash=digest(f"bud_{name}")) for name in ("old", "new", "former"))
STATUS = APIKeyStatus(hashes=(OLD,), hint="bud_old…")


def ending(known: KeyHash, when: str) -> KeyHash:
    return known.model_copy(update={"expires_at": when})


def wanted(known: Kept | None, status: APIKeyStatus = NO_STATUS, **fields: Any) -> dict[str, Any] | None:
    asked = spec(**fields)
    return secret(OWNER, asked, known, used=made(asked, status, known), fresh="new", now=NOW)


def written(known: Kept | None, status: APIKeyStatus = NO_STATUS, **fields: Any) -> dict[str, Any]:
    document = wanted(known, status, **fields)
    assert document is not None
    return document


def read(document: dict[str, Any], version: str = "8") -> Kept:
    document = document | {"metadata": document["metadata"] | {"resourceVersion": version}}
    return kept(document, namespace="team", name="alice")


def test_a_key_is_made_once_with_the_prefix_and_found_again() -> None:
    document = written(None, prefix="condt_")
    assert base64.b64decode(document["data"]["key"]) == b"condt_new"
    assert document["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert read(document) == Kept("condt_new", 0, (), frozenset({"uid-1"}), "8")
    assert wanted(read(document), prefix="condt_") is None


def test_a_raised_serial_makes_a_new_key_beside_the_old_one_until_the_overlap_ends() -> None:
    asked: dict[str, Any] = {"rotation": {"serial": 1, "overlapSeconds": 60}}
    document = written(KEPT, STATUS, **asked)
    known = read(document)
    assert (document["metadata"]["resourceVersion"], known.key, known.serial) == ("7", "bud_new", 1)
    ends = "2026-11-22T12:01:00Z"
    both = (NEW, ending(OLD, ends))
    used = made(spec(**asked), STATUS, known)  # The status as it is when its writing failed.
    assert used == Made(both, 1, "bud_new…")
    assert accepted(spec(**asked), used, now=NOW) == both
    assert accepted(spec(**asked), used, now=ends) == both[:1]
    assert next_look(spec(**asked), both, now=NOW) == 60
    assert wanted(known, STATUS, **asked) is None
    assert wanted(known, **asked) is None


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        pytest.param(None, SECRET_MISSING, id="gone"),
        pytest.param(replace(KEPT, key="bud_mine"), SECRET_CHANGED, id="edited"),
        pytest.param(replace(KEPT, key=""), SECRET_CHANGED, id="emptied"),
        pytest.param(replace(KEPT, key="bud_mine", serial=9), SECRET_CHANGED, id="edited with its serial"),
        pytest.param(replace(KEPT, serial=0, replaced=()), "", id="without its annotations"),
    ],
)
def test_what_becomes_of_a_secret_ends_no_key_and_makes_none(known: Kept | None, reason: str) -> None:
    asked: dict[str, Any] = {"rotation": {"serial": 2}, "limits": {"requestsPerMinute": 5}}
    status = STATUS.model_copy(update={"serial": 2, "hashes": (OLD, ending(FORMER, "2026-11-22T12:00:05Z"))})
    used = made(spec(**asked), status, known)
    assert accepted(spec(**asked), used, now=NOW) == status.hashes
    assert lack(known, used) == reason
    assert wanted(known, status, **asked) is None
    asked["rotation"] = {"serial": 3, "overlapSeconds": 60}
    document = written(known, status, **asked)
    assert document["metadata"]["resourceVersion"] == (OF_NOTHING if known is None else "7")
    used = made(spec(**asked), status, read(document))
    rotated = (NEW, ending(OLD, "2026-11-22T12:01:00Z"), ending(FORMER, "2026-11-22T12:00:05Z"))
    assert accepted(spec(**asked), used, now=NOW) == rotated
    assert lack(read(document), used) == ""


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(NO_STATUS, id="none"),
        pytest.param(STATUS.model_copy(update={"hashes": ()}), id="without hashes"),
        pytest.param(APIKeyStatus(hashes=(KeyHash(hash="a" * 64),)), id="of a key that was brought before"),
    ],
)
def test_a_status_without_a_key_that_was_made_takes_on_the_one_of_the_secret(status: APIKeyStatus) -> None:
    known = replace(KEPT, serial=3, replaced=(ending(FORMER, "2026-11-22T12:01:00Z"),))
    assert made(spec(), status, known) == Made((OLD, *known.replaced), 3, "bud_old…")
    assert wanted(known, status) is None
    assert made(spec(), status, None) is None
    assert read(written(None, status)).key == "bud_new"


def test_many_replacements_within_one_overlap_end_the_oldest() -> None:
    known, asked = KEPT, spec()
    for serial in range(1, 6):
        asked = spec(rotation={"serial": serial})
        used = made(asked, NO_STATUS, known)
        document = secret(OWNER, asked, known, used=used, fresh=f"{serial}", now=NOW)
        assert document is not None
        known = read(document)
    hashes = accepted(asked, made(asked, NO_STATUS, known), now=NOW)
    assert [one.hash for one in hashes] == [digest(f"bud_{serial}") for serial in (5, 4, 3, 2)]


@pytest.mark.parametrize(
    ("known", "key"),
    [
        pytest.param(None, "bud_new", id="there was none"),
        pytest.param(Kept("", 3, (), frozenset({"uid-1"}), "7"), "bud_new", id="somebody emptied it"),
        pytest.param(Kept("bud_old", 0, (), frozenset({"uid-of-before"}), "7"), "bud_old", id="the owner was restored"),
    ],
)
def test_when_the_secret_is_written(known: Kept | None, key: str) -> None:
    assert read(written(known)).key == key


@pytest.mark.parametrize(
    ("labels", "annotations", "refused"),
    [
        pytest.param({}, {}, True, id="without labels"),
        pytest.param({"bud.studio/owner-kind": "APIKey", "bud.studio/owner-name": "other-1"}, {}, True, id="another's"),
        pytest.param(None, {SERIAL: "x", REPLACED: "{"}, False, id="annotations that say nothing"),
        pytest.param(None, {SERIAL: "²", REPLACED: "[]"}, False, id="a serial that only looks like a number"),
        pytest.param(None, {SERIAL: "9" * 20, REPLACED: "[]"}, False, id="a serial that cannot be"),
        pytest.param(None, {SERIAL: "1000001", REPLACED: "[]"}, False, id="a serial that no spec may have"),
        pytest.param(None, {SERIAL: "0", REPLACED: '["x"]'}, False, id="annotations of another shape"),
    ],
)
def test_whose_a_secret_is(labels: dict[str, str] | None, annotations: dict[str, str], refused: bool) -> None:
    document = written(None)
    metadata = document["metadata"] | {"annotations": annotations}
    metadata |= {} if labels is None else {"labels": labels}
    if refused:
        with pytest.raises(InvalidError, match=r"Secret alice exists and is not this key's.*spec\.hash"):
            read(document | {"metadata": metadata})
        return
    found = read(document | {"metadata": metadata})
    assert (found.serial, found.replaced) == (0, ())


def test_no_more_replaced_keys_are_believed_than_a_status_holds() -> None:
    document = written(None)
    many = json.dumps([{"hash": digest(str(number)), "expiresAt": NOW} for number in range(9)])
    found = read(document | {"metadata": document["metadata"] | {"annotations": {REPLACED: many}}})
    assert [one.hash for one in found.replaced] == [digest(str(number)) for number in range(3)]


@pytest.mark.parametrize(
    ("fields", "phase", "ready", "word"),
    [
        pytest.param({}, "Active", True, "Secret alice holds the key", id="made"),
        pytest.param({"hash": "0" * 64}, "Active", True, "spec.hash", id="brought"),
        pytest.param({"revoked": True}, "Revoked", False, "spec.revoked", id="revoked"),
        pytest.param({"expiresAt": NOW}, "Expired", False, "later spec.expiresAt", id="expired this second"),
        pytest.param({"expiresAt": "2026-11-22T12:00:01Z"}, "Active", True, "Secret", id="a second left"),
        pytest.param({"expiresAt": "2026-11-22T13:00:00+02:00"}, "Expired", False, "ended", id="in another time zone"),
        pytest.param({"revoked": True, "expiresAt": NOW}, "Revoked", False, "revoked", id="both"),
    ],
)
def test_what_is_true_of_a_key(fields: dict[str, Any], phase: str, ready: bool, word: str) -> None:
    found, told = verdict(spec(**fields), "alice", now=NOW)
    assert (found, told.ready, told.reason) == (phase, ready, phase)
    assert word in told.message


@pytest.mark.parametrize(
    ("fields", "lacks", "phase", "reason", "words"),
    [
        pytest.param({}, SECRET_MISSING, "Active", SECRET_MISSING, "Secret alice is gone", id="gone"),
        pytest.param({}, SECRET_CHANGED, "Active", SECRET_CHANGED, "no longer holds the key", id="edited"),
        pytest.param({"revoked": True}, SECRET_MISSING, "Revoked", "Revoked", "spec.revoked", id="gone, and revoked"),
        pytest.param({"expiresAt": NOW}, SECRET_CHANGED, "Expired", "Expired", "ended", id="edited, and expired"),
    ],
)
def test_what_is_told_of_a_key_whose_secret_is_gone_or_edited(
    fields: dict[str, Any], lacks: str, phase: str, reason: str, words: str
) -> None:
    found, told = verdict(spec(**fields), "alice", now=NOW, lacks=lacks, serial=2)
    assert (found, told.ready, told.reason) == (phase, phase == "Active", reason)
    assert words in told.message
    if phase == "Active":
        assert "still accepted: set spec.rotation.serial to 3 for a new one" in told.message
        assert "or delete the APIKey" in told.message


def test_a_brought_hash_is_the_only_one_and_shows_nothing() -> None:
    asked = spec(hash="a" * 64)
    assert accepted(asked, None, now=NOW) == (KeyHash(hash="a" * 64),)
    used = made(spec(), NO_STATUS, Kept("bud_abcdefgh", 0, (), frozenset(), "1"))
    assert used is not None
    assert used.hint == "bud_abcd…"
    assert next_look(asked, (), now=NOW) is None
    assert next_look(spec(expiresAt="2026-11-22T12:00:05Z"), (), now=NOW) == 5
