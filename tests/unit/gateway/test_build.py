"""From objects to what callers may name."""

from __future__ import annotations

import base64
import hashlib
from decimal import Decimal
from typing import Any, get_args

import pytest

from bud.api.model import Task
from bud.gateway.build import Built, Objects, build
from bud.gateway.catalog import Price, Served
from bud.gateway.prices import Published
from bud.gateway.reach import Reach
from bud.gateway.usage import Usage, cost

HASH = "a" * 64


def made(kind: str, name: str, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({} if kind == "Project" else {"namespace": "ns"})
    return {"apiVersion": "bud.studio/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec or {}, **more}


PROJECT = made("Project", "team", {"namespace": "ns"})
CHAT = made("Deployment", "chat", {"modelRef": {"name": "m"}, "adapters": [{"name": "law", "modelRef": {"name": "l"}}]},
            status={"endpointURL": "http://chat.ns:8080/v1/", "modelName": "chat", "readyReplicas": 1})  # fmt: skip


def offer(name: str, *models: str, **spec: Any) -> dict[str, Any]:
    return made("Provider", name, {"kind": "OpenAI", "models": [{"name": model} for model in models], **spec})


def built(*objects: dict[str, Any]) -> Built:
    found = Objects()
    for raw in objects:
        found.add(raw)
    return build(found, Reach())


def served(*objects: dict[str, Any], name: str) -> Served:
    found = built(PROJECT, *objects).catalog.served("ns", name)
    assert found is not None
    return found


def test_a_deployment_and_its_adapters_are_called_by_their_names() -> None:
    (chat,), (law,) = served(CHAT, name="chat").targets, served(CHAT, name="law").targets
    assert (chat.urls, chat.model, chat.ready) == (("http://chat.ns:8080/v1",), "chat", True)
    assert (law.urls, law.model, law.id) == (chat.urls, "law", "chat")


@pytest.mark.parametrize(
    ("objects", "name", "ids"),
    [
        ([CHAT, made("Route", "chat", {"targets": [{"providerRef": {"name": "p", "model": "x"}}]}), offer("p", "x")], "chat", ["chat"]),
        ([CHAT, made("Route", "law", {"targets": [{"providerRef": {"name": "p", "model": "x"}}]}), offer("p", "x")], "law", ["chat"]),
        ([made("Route", "x", {"targets": [{"providerRef": {"name": "p", "model": "y"}}]}), offer("p", "x", "y")], "x", ["p/y"]),
        ([offer("p", "x"), offer("q", "x", priority=5)], "x", ["q/x", "p/x"]),
        ([made("Route", "r", {"model": "meta/llama", "targets": [{"deploymentRef": {"name": "chat"}}]}), CHAT], "meta/llama", ["chat"]),
        ([made("Route", "r", {"targets": [{"deploymentRef": {"name": "chat"}, "adapter": "law"}],
                              "fallbacks": [{"providerRef": {"name": "p", "model": "x"}}]}), CHAT, offer("p", "x")], "r", ["chat", "p/x"]),
    ],
    ids=["a Deployment before a Route", "an adapter before a Route", "a Route before a Provider", "Providers by priority",
         "a Route's own name for callers", "fallbacks after targets"],
)  # fmt: skip
def test_a_name_is_resolved_in_order(objects: list[dict[str, Any]], name: str, ids: list[str]) -> None:
    found = served(*objects, name=name)
    assert [target.id for target in (*found.targets, *found.fallbacks)] == ids


@pytest.mark.parametrize(
    ("key", "more", "hashes"),
    [
        (made("APIKey", "k", {"hash": HASH}), [], [HASH]),
        (made("APIKey", "k", {"hash": HASH, "revoked": True}), [], []),
        (made("APIKey", "k", status={"hashes": [{"hash": HASH}, {"hash": "b" * 64, "expiresAt": "2026-01-01T00:00:00Z"}]}), [], [HASH, "b" * 64]),
        (made("APIKey", "k"), [made("Secret", "k", stringData={"key": "bud_x"})], [hashlib.sha256(b"bud_x").hexdigest()]),
        (made("APIKey", "k"), [made("Secret", "k", data={"key": base64.b64encode(b"bud_y").decode()})], [hashlib.sha256(b"bud_y").hexdigest()]),
        (made("APIKey", "k"), [], []),
    ],
    ids=["a hash of the user's", "revoked", "being rotated", "a Secret in clear", "a Secret in base64", "nothing to know it by"],
)  # fmt: skip
def test_keys_are_known_by_their_hashes(key: dict[str, Any], more: list[dict[str, Any]], hashes: list[str]) -> None:
    assert sorted(built(PROJECT, key, *more).catalog.keys) == sorted(hashes)


def test_an_old_key_ends_when_its_overlap_does_and_both_with_the_object() -> None:
    both = [{"hash": HASH}, {"hash": "b" * 64, "expiresAt": "2026-01-01T00:00:00Z"}]
    keys = built(
        PROJECT, made("APIKey", "k", {"expiresAt": "2027-01-01T00:00:00Z"}, status={"hashes": both})
    ).catalog.keys
    assert (keys[HASH].ends, keys["b" * 64].ends) == (1798761600.0, 1767225600.0)


def test_a_key_and_its_project_are_both_counted() -> None:
    project = made("Project", "team", {"namespace": "ns", "limits": {"tokensPerDay": 5}})
    key = built(project, made("APIKey", "k", {"hash": HASH, "limits": {"requestsPerMinute": 7}})).catalog.keys[HASH]
    assert [(meter.id, meter.limit) for meter in key.meters] == [("key/ns/k/rm", 7), ("project/team/td", 5)]


def test_credentials_of_a_provider_are_its_headers() -> None:
    secret = made("Secret", "s", stringData={"apiKey": " sk-1\n"})
    for kind, headers in (("OpenAI", {"Authorization": "Bearer sk-1"}), ("AzureOpenAI", {"api-key": "sk-1"})):
        given = offer("p", "x", credentialsSecretRef={"name": "s"}, kind=kind, baseURL="https://a.example/v1")
        assert served(given, secret, name="x").targets[0].headers == headers


@pytest.mark.parametrize(
    ("values", "trouble"),
    [
        ({"stringData": {"apiKey": "sk-1\nsk-2"}}, "Secret s: apiKey holds a line break"),
        ({"data": {"apiKey": base64.b64encode(b"sk- 1\n").decode()}}, "Secret s: apiKey holds"),
        ({"stringData": {"apiKey": "sk-\u00e9"}}, "Secret s: apiKey holds"),
        ({"stringData": {"apiKey": "\n"}}, "Secret s: apiKey is empty"),
        (
            {"stringData": {"AWS_ACCESS_KEY_ID": "a", "AWS_SESSION_TOKEN": "t\r\nx"}},
            "Secret s: AWS_SESSION_TOKEN holds",
        ),
        ({"stringData": {"apikey": "sk-1"}}, "Secret s: it has none of apiKey, AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_credential_that_no_header_can_hold_is_told_by_its_field_and_never_sent(
    values: dict[str, Any], trouble: str
) -> None:
    found = built(PROJECT, made("Secret", "s", **values), offer("p", "x", credentialsSecretRef={"name": "s"}))
    ((what, text),) = found.troubles
    assert what == "Provider ns/p" and text.startswith(trouble) and "sk-" not in text
    known = found.catalog.served("ns", "x")
    assert known is not None and known.targets[0].urls == ()


@pytest.mark.parametrize(
    ("raw", "trouble"),
    [
        (made("Provider", "p", {"kind": "Nobody", "models": [{"name": "x"}]}), "spec.kind: Input should be"),
        (made("Route", "r", {"targets": [{"deploymentRef": {"name": "gone"}}]}), "nothing is called Deployment gone"),
        (made("Route", "r", {"targets": [{"providerRef": {"name": "gone"}}]}), "nothing is called Provider gone, model r"),
        (offer("p", "x", baseURL="http://169.254.169.254/v1"), "169.254.169.254 is no address of the internet; to allow it, set --allow-upstream"),
        (offer("p", "x", baseURL="http://a:99999/v1"), "spec.baseURL: "),
        (made("Deployment", "d", {"modelRef": {"name": "m"}, "pricing": {"perGPUHour": 2}}), "perGPUHour needs spec.resources.gpu"),
        (made("APIKey", "k"), "neither spec.hash nor a Secret"),
        (made("APIKey", "k", {"hash": HASH}) | {"metadata": {"name": "k", "namespace": "other"}}, "namespace 'other' is no Project's"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_and_hurts_nothing_else(raw: dict[str, Any], trouble: str) -> None:
    found = built(PROJECT, CHAT, raw)
    assert any(trouble in text for _, text in found.troubles)
    assert found.catalog.served("ns", "chat") is not None


def test_the_models_of_another_project_are_not_seen() -> None:
    catalog = built(PROJECT, made("Project", "other"), CHAT).catalog
    assert catalog.served("other", "chat") is None


def test_a_price_of_ones_own_wins_over_the_published_one_and_an_unknown_model_has_none() -> None:
    own = [{"name": "gpt-4o-mini", "pricing": {"inputTokensPer1k": 1}}]
    found = [
        served(offer("p", "gpt-4o-mini", models=own) if mine else offer("p", name), name=name).targets[0]
        for name, mine in (("gpt-4o-mini", True), ("gpt-4o-mini", False), ("nobody-knows", False))
    ]
    assert isinstance(found[0].price, Price) and found[0].price.input == 1
    assert isinstance(found[1].price, Published) and found[1].context_length == 128_000
    assert found[2].price is None


def test_a_deployment_and_its_adapters_cost_and_can_do_what_it_says() -> None:
    pricing = {"inputTokensPer1k": "0.5", "perGPUHour": "1.25"}
    said = {"pricing": pricing, "capabilities": ["chat", "vision"], "contextLength": 4096, "maxOutputTokens": 512}
    own = CHAT | {"spec": CHAT["spec"] | said | {"resources": {"gpu": 4}}}
    for name in ("chat", "law"):
        (target,) = served(own, name=name).targets
        assert target.price == Price(Decimal("0.5"), None, Decimal(0), Decimal(5))
        assert (target.capabilities, target.context_length, target.max_output_tokens) == (("chat", "vision"), 4096, 512)


@pytest.mark.parametrize("task", get_args(Task))
def test_what_a_deployment_can_do_follows_from_the_task_of_its_model(task: str) -> None:
    (target,) = served(CHAT | {"status": CHAT["status"] | {"task": task}}, name="chat").targets
    assert target.capabilities


def test_tokens_out_of_a_cache_cost_what_they_cost() -> None:
    price = served(offer("p", "gpt-4o-mini"), name="gpt-4o-mini").targets[0].price
    plain, cached = Usage(), Usage()
    plain.read({"prompt_tokens": 1000, "completion_tokens": 10})
    cached.read({"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 800}})
    costs = [cost(price, usage) or 0.0 for usage in (plain, cached)]
    assert isinstance(price, Published)
    assert costs[0] == pytest.approx(float(price.input + price.output / 100))
    assert 0 < costs[1] < costs[0]


def test_the_older_of_two_projects_has_their_namespace_and_the_other_is_told() -> None:
    born = ({"creationTimestamp": f"2026-01-0{day}T00:00:00Z"} for day in (2, 1))
    young, old = (
        made("Project", name, {"namespace": "ns"}) | {"metadata": {"name": name} | when}
        for name, when in zip(("a", "b"), born, strict=True)
    )
    found = built(young, old, made("APIKey", "k", {"hash": HASH}))
    assert found.catalog.keys[HASH].project.name == "b"
    assert [what for what, text in found.troubles if "older" in text] == ["Project a"]


def test_a_provider_whose_credentials_are_not_at_hand_is_named_and_asked_nothing() -> None:
    given = offer("p", "x", credentialsSecretRef={"name": "s"})
    found = built(PROJECT, given)
    served = found.catalog.served("ns", "x")
    assert served is not None and served.targets[0].urls == ()
    assert any("Secret s is not at hand" in text for _, text in found.troubles)
