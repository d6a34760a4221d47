"""What the API server itself refuses of Projects, keys, Providers and Routes, and what it takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bud.api import API_VERSION
from tests.cluster.handle import Cluster
from tests.world import refused


def of(kind: str, spec: dict[str, Any] | None) -> dict[str, Any]:
    found = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "some"}}
    return found if spec is None else found | {"spec": spec}


HASH = "a" * 64
MODELS = [{"name": "gpt-4"}]
DEPLOYMENT, PROVIDER = {"deploymentRef": {"name": "d"}}, {"providerRef": {"name": "p"}}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Project", None),
        ("Project", {"namespace": "team", "budget": {"amount": "0.15"}, "limits": {"requestsPerMinute": 60}}),
        ("Project", {"budget": {"amount": 20, "period": "Day"}}),
        ("APIKey", None),
        ("APIKey", {"hash": HASH, "expiresAt": "2027-01-01T00:00:00Z", "scopes": {"models": ["llama*"]}}),
        ("APIKey", {"hash": HASH, "rotation": {}}),
        ("APIKey", {"prefix": "condt_", "rotation": {"serial": 2, "overlapSeconds": 0}}),
        ("Provider", {"kind": "OpenAI", "models": MODELS}),
        ("Provider", {"kind": "OpenAI", "models": [{"name": "m", "pricing": {"inputTokensPer1k": "0.00015"}}]}),
        ("Provider", {"kind": "Bedrock", "region": "us-east-1", "models": MODELS}),
        ("Route", {"targets": [DEPLOYMENT | {"adapter": "french", "weight": 9}, PROVIDER], "fallbacks": [PROVIDER]}),
        ("Route", {"model": "org/name", "targets": [DEPLOYMENT], "pricing": {"perRequest": 1}}),
    ],
)
def test_these_are_taken(kinds: Cluster, kind: str, spec: dict[str, Any] | None) -> None:
    kinds.kubectl("apply", "--dry-run=server", "--filename=-", stdin=json.dumps(of(kind, spec)))


@pytest.mark.parametrize(
    ("kind", "spec", "says"),
    [
        ("Project", {"namespace": "Team"}, "spec.namespace"),
        ("Project", {"budget": {"amount": "20$"}}, "spec.budget.amount"),
        ("Project", {"budget": {"amount": -1}}, "spec.budget.amount"),
        ("Project", {"budget": {"amount": "1", "period": "Week"}}, "spec.budget.period"),
        ("Project", {"limits": {"requestsPerMinute": 0}}, "spec.limits.requestsPerMinute"),
        ("APIKey", {"hash": "bud_try_me"}, "spec.hash"),
        ("APIKey", {"prefix": "bud"}, "spec.prefix"),
        ("APIKey", {"expiresAt": "tomorrow"}, "spec.expiresAt"),
        ("APIKey", {"hash": HASH, "rotation": {"serial": 1}}, "change hash, or remove rotation.serial"),
        ("APIKey", {"scopes": {"endpoints": ["chat"]}}, "spec.scopes.endpoints[0]"),
        ("APIKey", {"scopes": {"models": ["a b"]}}, "spec.scopes.models[0]"),
        ("Provider", {"kind": "OpenAI"}, "spec.models"),
        ("Provider", {"kind": "OpenAI", "models": []}, "spec.models"),
        ("Provider", {"kind": "OpenAI", "models": MODELS * 2}, "Duplicate value"),
        ("Provider", {"kind": "openai", "models": MODELS}, "spec.kind"),
        ("Provider", {"kind": "OpenAICompatible", "models": MODELS}, "baseURL is needed for this kind"),
        ("Provider", {"kind": "Bedrock", "models": MODELS}, "Bedrock needs region"),
        ("Provider", {"kind": "OpenAI", "baseURL": "x.org", "models": MODELS}, "spec.baseURL"),
        ("Provider", {"kind": "OpenAI", "baseURL": "https://me:word@x.org/v1", "models": MODELS}, "spec.baseURL"),
        ("Provider", {"kind": "OpenAI", "models": [{"name": "m", "pricing": {"perRequest": "1e3"}}]}, "perRequest"),
        ("Route", None, "spec: Required"),
        ("Route", {"targets": []}, "spec.targets"),
        ("Route", {"targets": [{}]}, "exactly one of deploymentRef or providerRef"),
        ("Route", {"targets": [DEPLOYMENT | PROVIDER]}, "exactly one of deploymentRef or providerRef"),
        ("Route", {"targets": [PROVIDER | {"adapter": "x"}]}, "adapter needs deploymentRef"),
        ("Route", {"targets": [DEPLOYMENT | {"weight": -1}]}, "spec.targets[0].weight"),
        ("Route", {"targets": [DEPLOYMENT], "strategy": "Random"}, "spec.strategy"),
        ("Route", {"targets": [DEPLOYMENT], "target": []}, "unknown field"),
    ],
)
def test_these_are_refused_by_name_of_the_field(
    kinds: Cluster, kind: str, spec: dict[str, Any] | None, says: str
) -> None:
    assert says in refused(kinds, of(kind, spec))
