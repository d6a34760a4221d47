"""What comes and goes piece by piece makes the same catalog as all of it at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bud.gateway.build import Assembly, Built
from bud.gateway.catalog import Served
from bud.gateway.parsed import Item, Name, parsed
from bud.gateway.reach import Reach
from bud.kube.kinds import child_name

ENGINE = child_name("Deployment", "a", "chat")


def item(kind: str, namespace: str, name: str, **more: Any) -> Item:
    metadata = {"name": name, "namespace": namespace} | dict(more.pop("metadata", {}))
    return parsed(kind, {"metadata": metadata, **more})


def endpoints(*addresses: str, **conditions: bool) -> dict[str, Any]:
    family = "IPv6" if any(":" in address for address in addresses) else "IPv4"
    return {
        "metadata": {"labels": {"bud.studio/owner-name": ENGINE}},
        "addressType": family,
        "endpoints": [{"addresses": [address], "conditions": conditions} for address in addresses],
        "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9}],
    }


def _offers(model: str) -> dict[str, Any]:
    spec = {"kind": "OpenAI", "models": [{"name": model}], "credentialsSecretRef": {"name": "s"}}
    return {"spec": spec}


_LEADS = {
    "spec": {
        "targets": [{"deploymentRef": {"name": "chat"}}, {"providerRef": {"name": "p", "model": "x"}, "weight": 3}]
    }
}
_DEPLOYS = {"spec": {"modelRef": {"name": "m"}, "adapters": [{"name": "law", "modelRef": {"name": "l"}}]}}
VERSIONS: list[Item] = [
    item("Project", "", "one", spec={"namespace": "a"}),
    item("Project", "", "one", spec={"namespace": "b"}),
    item("Project", "", "two", spec={"namespace": "a", "limits": {"requestsPerDay": 5}}),
    item("APIKey", "a", "k", spec={"hash": "a" * 64}),
    item("APIKey", "a", "k", spec={"hash": "b" * 64, "revoked": True}),
    item("APIKey", "b", "k", spec={"hash": "a" * 64}),
    item("APIKey", "b", "m", status={"hashes": [{"hash": "a" * 64}, {"hash": "c" * 64}]}),
    item("Deployment", "a", "chat", **_DEPLOYS),
    item("Deployment", "a", "chat", spec={"modelRef": {"name": "m"}}),
    item("EndpointSlice", "a", "s1", **endpoints("10.0.0.1", "10.0.0.2")),
    item("EndpointSlice", "a", "s1", **endpoints("10.0.0.1")),
    item("EndpointSlice", "a", "s2", **endpoints("10.0.0.2", "10.0.0.3")),
    item("Provider", "a", "p", **_offers("x")),
    item("Provider", "a", "p", **_offers("y")),
    item("Provider", "a", "q", spec={"kind": "Nobody"}),
    item("Route", "a", "x", **_LEADS),
    item("Route", "a", "r", **_LEADS),
    item("Secret", "a", "s", stringData={"apiKey": "sk"}),
]


def settled(assembly: Assembly) -> Built:
    while assembly.work():
        pass
    return assembly.built()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VERSIONS), st.booleans(), st.booleans()), max_size=12))
def test_whatever_came_and_went_only_what_is_there_counts(changes: list[tuple[Item, bool, bool]]) -> None:
    known: dict[Name, Item] = {one.key: one for one in VERSIONS[::-1]}
    assembly = Assembly(Reach(), in_cluster=True)
    for one in known.values():
        assembly.put(None, one)
    settled(assembly)
    for new, is_there, looks in changes:
        old = known.pop(new.key, None)
        if is_there:
            known[new.key] = new
        if old is not None or is_there:
            assembly.put(old, new if is_there else None)
        if looks:
            settled(assembly)
    fresh = Assembly(Reach(), in_cluster=True)
    for one in sorted(known.values(), key=lambda one: one.key):
        fresh.put(None, one)
    found, wanted = settled(assembly), settled(fresh)
    assert found.catalog == wanted.catalog
    assert sorted(found.troubles) == sorted(wanted.troubles)
    assert assembly.credentials() == fresh.credentials()
    assert [found.catalog.known(one) for one in ("one", "two")] == [wanted.catalog.known(one) for one in ("one", "two")]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"status": {"hashes": [{"hash": "a" * 64}]}, "metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}},
         {"spec": {"hash": "a" * 64}, "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}),
        ({"spec": {"hash": "a" * 64}, "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}},
         {"spec": {"hash": "a" * 64}, "metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}}),
    ],
    ids=["one that was made before one that somebody wrote down", "the older before the younger"],
)  # fmt: skip
@pytest.mark.parametrize("mine_is_first", [True, False])
def test_a_hash_is_one_keys_only(mine: dict[str, Any], theirs: dict[str, Any], mine_is_first: bool) -> None:
    assembly = Assembly(Reach(), in_cluster=True)
    for name in ("a", "b"):
        assembly.put(None, item("Project", "", name, spec={"namespace": name}))
    keys = [item("APIKey", "a", "mine", **mine), item("APIKey", "b", "theirs", **theirs)]
    for key in keys if mine_is_first else keys[::-1]:
        assembly.put(None, key)
        settled(assembly)
    found = settled(assembly)
    assert found.catalog.keys["a" * 64].name == "mine"
    assert [what for what, _ in found.troubles] == ["APIKey b/theirs"]
    assembly.put(keys[0], None)
    found = settled(assembly)
    assert found.catalog.keys["a" * 64].name == "theirs" and not found.troubles


def served(*slices: dict[str, Any]) -> Served:
    assembly = Assembly(Reach(), in_cluster=True)
    assembly.put(None, VERSIONS[0])
    assembly.put(None, VERSIONS[7])
    for number, one in enumerate(slices):
        assembly.put(None, item("EndpointSlice", "a", f"s{number}", **one))
    found = settled(assembly).catalog.served("a", "chat")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("slices", "urls"),
    [
        ([], []),
        ([endpoints("10.0.0.2"), endpoints("10.0.0.1", ready=True)], ["http://10.0.0.1:8080/v1", "http://10.0.0.2:8080/v1"]),
        ([endpoints("fd00::7")], ["http://[fd00::7]:8080/v1"]),
        ([endpoints("10.0.0.1", ready=False, serving=True, terminating=True)], []),
        ([endpoints("10.0.0.1"), endpoints("10.0.0.1")], ["http://10.0.0.1:8080/v1"]),
    ],
    ids=["none", "those of several slices, in one order", "IPv6", "one that ends", "one that stands in two slices for a moment"],
)  # fmt: skip
def test_a_deployment_is_reached_at_the_pods_that_are_ready(slices: list[dict[str, Any]], urls: list[str]) -> None:
    target = served(*slices).targets[0]
    assert (list(target.urls), target.ready) == (urls, bool(urls))


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"hash": "b" * 64, "expiresAt": "2026-11-22T12:00:00+99:99"}, id="no such offset"),
        pytest.param({"hash": "b" * 64, "expiresAt": "0000-01-01T00:00:00Z"}, id="no such year"),
        pytest.param({"hash": "b" * 64, "budget": {"amount": "abc"}}, id="no amount"),
        pytest.param({"hash": "b" * 64, "budget": {"amount": "NaN"}}, id="not a number"),
    ],
)
def test_a_key_that_can_no_longer_be_read_is_no_longer_accepted(spec: dict[str, Any]) -> None:
    assembly = Assembly(Reach(), in_cluster=True)
    assembly.put(None, item("Project", "", "a", spec={"namespace": "a"}))
    before = item("APIKey", "a", "k", spec={"hash": "b" * 64})
    assembly.put(None, before)
    assert list(settled(assembly).catalog.keys) == ["b" * 64]
    assembly.put(before, item("APIKey", "a", "k", spec=spec))
    built = settled(assembly)
    assert (list(built.catalog.keys), len(built.troubles)) == ([], 1)


def test_times_are_read_in_small_letters_too() -> None:
    assembly = Assembly(Reach(), in_cluster=True)
    assembly.put(None, item("Project", "", "a", spec={"namespace": "a"}))
    assembly.put(None, item("APIKey", "a", "k", spec={"hash": "b" * 64, "expiresAt": "2026-11-22t12:00:00z"}))
    assert settled(assembly).catalog.keys["b" * 64].ends == 1795348800.0


def test_a_project_knows_its_own_keys_alone_and_none_while_one_cannot_be_read() -> None:
    assembly = Assembly(Reach(), in_cluster=True)
    broken = item("APIKey", "b", "k3", spec={"expiresAt": "soon"})
    for one in (
        item("Project", "", "one", spec={"namespace": "a"}),
        item("Project", "", "two", spec={"namespace": "b"}),
        item("Project", "", "young", metadata={"creationTimestamp": "2026-01-01T00:00:00Z"}, spec={"namespace": "a"}),
        item("APIKey", "a", "k1", metadata={"uid": "u-1"}),
        item("APIKey", "a", "k2", metadata={"uid": "u-2"}, spec={"revoked": True}),
        item("APIKey", "b", "k1", metadata={"uid": "u-3"}),
        broken,
    ):
        assembly.put(None, one)
    known = settled(assembly).catalog.known
    assert [known(project) for project in ("one", "two", "young", "none")] == [{"u-1", "u-2"}, None, None, None]
    assembly.put(broken, None)
    assembly.put(VERSIONS[0], None)
    assert [known(project) for project in ("one", "two")] == [None, {"u-3"}]
    assembly.put(
        item("Project", "", "two", spec={"namespace": "b"}), item("Project", "", "two", spec={"namespace": "c"})
    )
    assert known("two") == set()
