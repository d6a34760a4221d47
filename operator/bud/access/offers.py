"""Providers and Routes: what is true of them. Pure; whether a provider answers is the gateway's to say."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bud.api.conditions import Verdict
from bud.api.provider import ProviderSpec
from bud.api.route import RouteSpec, Target

CONFIGURED = "Configured"
"""Nothing lacks for the gateway to use it."""
CREDENTIALS_MISSING = "CredentialsMissing"
"""The Secret with the credentials is not there, or lacks what the kind needs."""
TARGET_MISSING = "TargetMissing"
"""A Deployment, adapter, Provider or model that a Route names is not there."""
NAME_HIDDEN = "NameHidden"
"""A Deployment or adapter has the name that the Route gives, and goes before it."""
PROJECT_MISSING = "ProjectMissing"
"""No Project has the namespace, so that nobody can call what is in it, and its keys mean nothing."""

_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, slots=True)
class Offered:
    """What a namespace offers: Deployments with their adapters' names, and Providers with their models' names."""

    deployments: Mapping[str, Collection[str]]
    providers: Mapping[str, Collection[str]]


def lacks(spec: ProviderSpec, secret: Mapping[str, Any] | None) -> str:
    """What the credentials lack, as a sentence; empty when they are complete, or none are wanted."""
    reference = spec.credentials_secret_ref
    if reference is None:
        return "" if spec.kind == "OpenAICompatible" else "spec.credentialsSecretRef is not set: requests go without"
    if secret is None:
        return f"there is no Secret {reference.name}: create it, with the provider's key as apiKey"
    has = {name for name, value in (secret.get("data") or {}).items() if _is_text(value)}
    if "apiKey" in has or (spec.kind == "Bedrock" and has >= set(_AWS)):
        return ""
    needed = f"{' and '.join(_AWS)}, or apiKey" if spec.kind == "Bedrock" else "apiKey"
    return f"Secret {reference.name} has no {needed}: add it"


def provider_verdict(spec: ProviderSpec, lacking: str, *, accepted: bool) -> Verdict:
    """What is true of a Provider; `accepted` says whether its namespace is a Project's."""
    if not accepted:
        return _without_project()
    if lacking and spec.credentials_secret_ref is not None:
        return Verdict(False, CREDENTIALS_MISSING, lacking, reconciling=True)
    return Verdict(True, CONFIGURED, lacking or f"offers {len(spec.models)} models")


def route_verdict(spec: RouteSpec, name: str, offered: Offered, *, accepted: bool) -> Verdict:
    """What is true of a Route; `accepted` says whether its namespace is a Project's."""
    if not accepted:
        return _without_project()
    model = spec.model or name
    if model in offered.deployments or any(model in names for names in offered.deployments.values()):
        text = f"a Deployment or adapter is called {model} and answers to it: choose another spec.model"
        return Verdict(False, NAME_HIDDEN, text, stalled=True)
    if missing := list(dict.fromkeys(_missing((*spec.targets, *spec.fallbacks), model, offered))):
        some = any(not _lacks(target, model, offered) for target in spec.targets)
        return Verdict(some, TARGET_MISSING, f"not there: {', '.join(missing)}", reconciling=True)
    return Verdict(True, CONFIGURED, f"answers to {model}")


def _without_project() -> Verdict:
    text = "no Project has this namespace, so nobody can call it: create a Project with spec.namespace"
    return Verdict(False, PROJECT_MISSING, text, reconciling=True)


def _missing(targets: Iterable[Target], model: str, offered: Offered) -> Iterable[str]:
    return (text for target in targets if (text := _lacks(target, model, offered)))


def _lacks(target: Target, model: str, offered: Offered) -> str:
    if target.deployment_ref is not None:
        name = target.deployment_ref.name
        if name not in offered.deployments:
            return f"Deployment {name}"
        is_there = target.adapter is None or target.adapter in offered.deployments[name]
        return "" if is_there else f"adapter {target.adapter} of Deployment {name}"
    assert target.provider_ref is not None
    name, wanted = target.provider_ref.name, target.provider_ref.model or model
    if name not in offered.providers:
        return f"Provider {name}"
    return "" if wanted in offered.providers[name] else f"model {wanted} of Provider {name}"


def _is_text(value: str) -> bool:
    try:
        return bool(base64.b64decode(value).strip())
    except ValueError:
        return False
