"""Providers and Routes: what lacks, and what is told of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bud.access.offers import Offered, lacks, provider_verdict, route_verdict
from bud.api.provider import ProviderSpec
from bud.api.route import RouteSpec

REF = {"credentialsSecretRef": {"name": "creds"}}
KEY = {"apiKey": "k"}
AWS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}


def provider(**fields: Any) -> ProviderSpec:
    return ProviderSpec.model_validate({"kind": "OpenAI", "models": [{"name": "gpt-4"}]} | fields)


def secret(**data: str) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}}


@pytest.mark.parametrize(
    ("fields", "found", "says"),
    [
        pytest.param(REF, secret(**KEY), "", id="complete"),
        pytest.param(REF, None, "there is no Secret creds: create it", id="no Secret"),
        pytest.param(REF, secret(other="x"), "Secret creds has no apiKey", id="another name"),
        pytest.param(REF, secret(apiKey=" "), "Secret creds has no apiKey", id="nothing in it"),
        pytest.param({}, None, "spec.credentialsSecretRef is not set", id="none named"),
        pytest.param({"kind": "OpenAICompatible", "baseURL": "http://x/v1"}, None, "", id="none wanted"),
        pytest.param(REF | {"kind": "Bedrock", "region": "r"}, secret(**AWS), "", id="AWS"),
        pytest.param(REF | {"kind": "Bedrock", "region": "r"}, secret(**KEY), "", id="a key of Bedrock"),
        pytest.param(
            REF | {"kind": "Bedrock", "region": "r"}, secret(AWS_ACCESS_KEY_ID="a"), "has no AWS_ACCESS", id="half"
        ),
    ],
)
def test_which_credentials_lack(fields: dict[str, Any], found: dict[str, Any] | None, says: str) -> None:
    told = lacks(provider(**fields), found)
    assert (says in told) if says else told == ""


@pytest.mark.parametrize(
    ("fields", "lacking", "accepted", "row"),
    [
        (REF, "", True, (True, "Configured", False)),
        (REF, "there is no Secret creds", True, (False, "CredentialsMissing", True)),
        ({}, "spec.credentialsSecretRef is not set", True, (True, "Configured", False)),
        (REF, "", False, (False, "ProjectMissing", True)),
    ],
)
def test_what_is_true_of_a_provider(
    fields: dict[str, Any], lacking: str, accepted: bool, row: tuple[bool, str, bool]
) -> None:
    told = provider_verdict(provider(**fields), lacking, accepted=accepted)
    assert (told.ready, told.reason, told.reconciling) == row


OFFERED = Offered({"llama": {"french"}}, {"openai": {"gpt-4"}})
LLAMA, FRENCH = {"deploymentRef": {"name": "llama"}}, {"deploymentRef": {"name": "llama"}, "adapter": "french"}
GPT = {"providerRef": {"name": "openai", "model": "gpt-4"}}


@pytest.mark.parametrize(
    ("fields", "ready", "reason", "says"),
    [
        pytest.param({"targets": [LLAMA, FRENCH, GPT]}, True, "Configured", "answers to chat", id="all there"),
        pytest.param(
            {"targets": [GPT | {"providerRef": {"name": "openai"}}]}, False, "TargetMissing",
            "model chat of Provider openai", id="the Route's own name as model",
        ),
        pytest.param(
            {"targets": [{"deploymentRef": {"name": "x"}}]}, False, "TargetMissing", "Deployment x", id="Deployment",
        ),
        pytest.param(
            {"targets": [LLAMA | {"adapter": "x"}]}, False, "TargetMissing", "adapter x of Deployment llama", id="adapter",
        ),
        pytest.param(
            {"targets": [LLAMA], "fallbacks": [{"providerRef": {"name": "x"}}]}, True, "TargetMissing", "Provider x",
            id="a fallback, and the target serves",
        ),
        pytest.param({"model": "llama", "targets": [GPT]}, False, "NameHidden", "called llama", id="a Deployment's name"),
        pytest.param({"model": "french", "targets": [GPT]}, False, "NameHidden", "called french", id="an adapter's name"),
    ],
)  # fmt: skip
def test_what_is_true_of_a_route(fields: dict[str, Any], ready: bool, reason: str, says: str) -> None:
    told = route_verdict(RouteSpec.model_validate(fields), "chat", OFFERED, accepted=True)
    assert (told.ready, told.reason) == (ready, reason)
    assert says in told.message


def test_a_route_of_no_project_is_of_no_use() -> None:
    told = route_verdict(RouteSpec.model_validate({"targets": [LLAMA]}), "chat", OFFERED, accepted=False)
    assert (told.ready, told.reason) == (False, "ProjectMissing")
