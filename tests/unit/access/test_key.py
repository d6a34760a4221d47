"""Keys: the Secret that holds one, its replacement, and which hashes are accepted when."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from bud.access.key import REPLACED, SERIAL, Kept, Owner, accepted, hint, kept, next_look, secret, verdict
from bud.api.api_key import APIKeySpec, KeyHash
from bud.errors import InvalidError

NOW = "2026-11-22T12:00:00Z"
OWNER = Owner("team", "alice", "uid-1")
MADE = Kept("bud_old", 0, (), frozenset({"uid-1"}), "7")


def spec(**fields: Any) -> APIKeySpec:
    return APIKeySpec.model_validate(fields)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def written(known: Kept | None, **fields: Any) -> dict[str, Any]:
    document = secret(OWNER, spec(**fields), known, fresh="new", now=NOW)
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
    assert secret(OWNER, spec(prefix="condt_"), read(document), fresh="other", now=NOW) is None


def test_a_raised_serial_makes_a_new_key_beside_the_old_one_until_the_overlap_ends() -> None:
    asked: dict[str, Any] = {"rotation": {"serial": 1, "overlapSeconds": 60}}
    document = written(MADE, **asked)
    known = read(document)
    assert (document["metadata"]["resourceVersion"], known.key, known.serial) == ("7", "bud_new", 1)
    ends = "2026-11-22T12:01:00Z"
    both = (KeyHash(hash=digest("bud_new")), KeyHash(hash=digest("bud_old"), expires_at=ends))
    assert accepted(spec(**asked), known, now=NOW) == both
    assert accepted(spec(**asked), known, now=ends) == both[:1]
    assert next_look(spec(**asked), both, now=NOW) == 60
    assert secret(OWNER, spec(**asked), known, fresh="other", now=NOW) is None


def test_many_replacements_within_one_overlap_end_the_oldest() -> None:
    known = MADE
    for serial in range(1, 6):
        document = secret(OWNER, spec(rotation={"serial": serial}), known, fresh=f"{serial}", now=NOW)
        assert document is not None
        known = read(document)
    hashes = accepted(spec(rotation={"serial": 5}), known, now=NOW)
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


def test_a_brought_hash_is_the_only_one_and_shows_nothing() -> None:
    asked = spec(hash="a" * 64)
    assert accepted(asked, None, now=NOW) == (KeyHash(hash="a" * 64),)
    assert hint(asked, None) == ""
    assert hint(spec(), Kept("bud_abcdefgh", 0, (), frozenset(), "1")) == "bud_abcd…"
    assert next_look(asked, (), now=NOW) is None
    assert next_look(spec(expiresAt="2026-11-22T12:00:05Z"), (), now=NOW) == 5
