"""What the environment may say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bud.weights.config import load, secrets
from bud.weights.errors import Permanent

HUB = {"source": {"huggingFace": {"repo": "a/b", "allowPatterns": ["*.gguf"], "revision": None}}, "target": "/weights"}


def environment(config: Any, **more: str) -> dict[str, str]:
    return {"BUD_WEIGHTS_CONFIG": json.dumps(config), **more}


def test_a_hub_source_is_read_as_the_spec_spells_it() -> None:
    config = load(environment(HUB))

    assert config.source.hugging_face
    assert config.source.hugging_face.allow_patterns == ("*.gguf",)
    assert config.settings.stall_seconds == 60


def test_settings_come_from_the_environment() -> None:
    settings = load(environment(HUB, BUD_WEIGHTS_STALL_SECONDS="5", BUD_WEIGHTS_PARALLEL="2")).settings

    assert (settings.stall_seconds, settings.parallel, settings.tries) == (5, 2, 6)


FAULTS = [
    ({**HUB, "source": {}}, "source: give exactly one of"),
    ({**HUB, "source": {"local": {}, "url": {"url": "http://a/b"}}}, "source: give exactly one of"),
    ({**HUB, "source": {"huggingFace": {}}}, "source.huggingFace.repo: is required"),
    (
        {**HUB, "source": {"huggingFace": {"repo": "a/b", "endpoint": "ftp://x"}}},
        "source.huggingFace.endpoint: must be",
    ),
    ({**HUB, "source": {"url": {}}}, "source.url: give url"),
    ({**HUB, "source": {"url": {"url": "http://a/b", "urls": ["http://a/c"]}}}, "source.url: give url"),
    ({**HUB, "source": {"url": {"urls": []}}}, "source.url: give url"),
    ({**HUB, "source": {"url": {"url": "http://[::1/x"}}}, "source.url.url: must be"),
    ({**HUB, "source": {"cloud": {"uri": "ftp://bucket/x"}}}, "source.cloud.uri: "),
    ({**HUB, "source": {"cloud": {"uri": "s3:///x"}}}, "source.cloud.uri: "),
    ({**HUB, "sha256": {"m.bin": "abc"}}, "sha256.m.bin: "),
    ({"source": HUB["source"]}, "target: is required"),
    ("text", "configuration: "),
]


@pytest.mark.parametrize(("config", "says"), FAULTS, ids=[row[1] for row in FAULTS])
def test_a_fault_is_told_by_its_field(config: Any, says: str) -> None:
    with pytest.raises(Permanent) as refusal:
        load(environment(config))

    assert refusal.value.reason == "InvalidSource"
    assert says in refusal.value.message


def test_a_fault_never_tells_the_value() -> None:
    config = {**HUB, "source": {"url": {"url": "htp://me:a-password@host/x"}}}

    with pytest.raises(Permanent) as refusal:
        load(environment(config))

    assert "a-password" not in refusal.value.message


def test_no_configuration_and_settings_that_make_no_sense_are_told() -> None:
    with pytest.raises(Permanent, match="BUD_WEIGHTS_CONFIG is not set"):
        load({})
    with pytest.raises(Permanent, match="parallel"):
        load(environment(HUB, BUD_WEIGHTS_PARALLEL="0"))


def test_credentials_are_the_keys_of_the_secret_and_empty_ones_are_none() -> None:
    given = environment(HUB, BUD_CREDENTIAL_token=" t \n", BUD_CREDENTIAL_password="", HF_TOKEN="other")

    assert load(given).credentials == {"token": "t"}
    assert load(environment(HUB, HF_TOKEN="other")).credentials == {"token": "other"}


def test_names_of_accounts_are_no_secrets() -> None:
    given = {"BUD_CREDENTIAL_username": "me", "BUD_CREDENTIAL_password": "p", "BUD_CREDENTIAL_AWS_ACCESS_KEY_ID": "k"}

    assert secrets(given) == ["p"]
