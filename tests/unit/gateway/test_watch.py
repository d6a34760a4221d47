"""What is watched becomes the catalog; how old it may become, and what it waits for. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from bud.errors import ApiForbidden, ApiRefused, ApiUnavailable
from bud.gateway.build import Built
from bud.gateway.reach import Reach
from bud.gateway.settings import Settings
from bud.gateway.watch import Watch
from bud.kube.client import Client, Object
from bud.kube.kinds import API_KEYS, ENDPOINT_SLICES, PROJECTS, PROVIDERS, SECRETS, Resource
from tests.virtual_time import run

HASH = "a" * 64


def raw(name: str, spec: dict[str, Any], version: int = 5, **metadata: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version), **metadata}, "spec": spec}


class Cluster:
    """Lists what it holds; its watches say what `say` is told, bookmarks at their end, or nothing once it is `away`."""

    def __init__(self) -> None:
        self.held: dict[Resource, list[Object]] = {
            PROJECTS: [raw("team", {"namespace": "ns"}, namespace="")],
            API_KEYS: [raw("alice", {"hash": HASH})],
        }
        self.secret: Callable[[], Object] = lambda: {"metadata": {"name": "s"}, "stringData": {"apiKey": "sk"}}
        self.api_server: Callable[[], Object] = lambda: {"endpoints": [{"addresses": ["10.0.9.1"]}]}
        self.away = False
        self.reads = 0
        self._said: dict[Resource, asyncio.Queue[Object]] = {}

    async def list_page(self, resource: Resource, **_: Any) -> Object:
        if self.away:
            raise ApiUnavailable("away")
        return {"items": self.held.get(resource, []), "metadata": {"resourceVersion": "9"}}

    async def watch(self, resource: Resource, *, seconds: float, **_: Any) -> AsyncIterator[Object]:
        queue = self._said.setdefault(resource, asyncio.Queue())
        try:
            async with asyncio.timeout(seconds):
                while True:
                    yield await queue.get()
        except TimeoutError:
            if self.away:
                await asyncio.sleep(seconds / 4)
                raise ApiUnavailable("silent") from None

    def say(self, resource: Resource, kind: str, what: Object) -> None:
        self._said[resource].put_nowait({"type": kind, "object": what})

    async def get(self, resource: Resource, **_: Any) -> Object:
        if resource is ENDPOINT_SLICES:
            return self.api_server()
        assert resource is SECRETS
        self.reads += 1
        return self.secret()


def watching(cluster: Cluster, test: Callable[[Watch, list[Built]], Any], **options: Any) -> None:
    async def main() -> None:
        given: list[Built] = []
        watch = Watch(cast(Client, cluster), given.append, Settings(**options))
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.1)
        await test(watch, given)
        task.cancel()

    run(main())


def provider(version: int = 8, **spec: Any) -> Object:
    offer = {"kind": "OpenAI", "models": [{"name": "x"}], "credentialsSecretRef": {"name": "s"}}
    return raw("p", offer | spec, version)


def urls(built: Built) -> tuple[str, ...]:
    found = built.catalog.served("ns", "x")
    assert found is not None
    return found.targets[0].urls


def test_a_burst_of_news_is_worked_out_once() -> None:
    cluster = Cluster()

    async def test(watch: Watch, given: list[Built]) -> None:
        before = len(given)
        for number in range(50):
            cluster.say(API_KEYS, "ADDED", raw(f"k{number}", {"hash": f"{number:064x}"}, 20 + number))
            await asyncio.sleep(0.00005)
        await asyncio.sleep(1)
        assert len(given) == before + 1 and len(given[-1].catalog.keys) == 51

    watching(cluster, test)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("DELETED", raw("alice", {"hash": HASH}, 12)),
        ("MODIFIED", raw("alice", {"hash": HASH, "revoked": True}, 12)),
        ("MODIFIED", raw("alice", {"hash": HASH}, 12, deletionTimestamp="2026-01-01T00:00:00Z")),
    ],
    ids=["deleted", "revoked", "about to be deleted"],
)
def test_a_key_ends_at_once_when_it_is(kind: str, what: Object) -> None:
    cluster = Cluster()

    async def test(watch: Watch, given: list[Built]) -> None:
        assert HASH in given[-1].catalog.keys
        cluster.say(API_KEYS, kind, what)
        await asyncio.sleep(0.1)
        assert not given[-1].catalog.keys

    watching(cluster, test)


@pytest.mark.parametrize(("most", "fault"), [(0, False), (30, True)], ids=["for ever", "for 30 s"])
def test_keys_that_nobody_was_heard_of_are_accepted_as_long_as_is_set(most: float, fault: bool) -> None:
    cluster = Cluster()

    async def test(watch: Watch, given: list[Built]) -> None:
        await asyncio.sleep(60)
        assert not given[-1].catalog.fault and watch.age() < 10
        cluster.away = True
        await asyncio.sleep(20)
        assert not given[-1].catalog.fault
        await asyncio.sleep(40)
        assert bool(given[-1].catalog.fault) == fault and watch.age() > 50
        assert HASH in given[-1].catalog.keys and not watch.waits_for()
        cluster.away = False
        await asyncio.sleep(15)
        assert not given[-1].catalog.fault

    watching(cluster, test, max_stale_keys=most)


def test_it_says_what_it_waits_for() -> None:
    cluster = Cluster()
    cluster.away = True

    async def test(watch: Watch, given: list[Built]) -> None:
        assert watch.waits_for() == "apikeys, deployments, endpointslices, projects, providers, routes"
        assert not given
        cluster.away = False
        await asyncio.sleep(15)
        assert not watch.waits_for() and given

    watching(cluster, test)


def test_the_machines_of_the_api_server_are_guarded_as_they_come_and_go() -> None:
    cluster, reach = Cluster(), Reach.of(["private"], {})

    def why(address: str) -> str | None:
        return reach.judge(f"http://{address}/v1")[1]

    async def test(watch: Watch, given: list[Built]) -> None:
        assert why("10.0.9.1") and not why("10.0.9.2") and not given[-1].troubles
        cluster.api_server = lambda: {"endpoints": [{"addresses": ["10.0.9.2"]}]}
        await asyncio.sleep(61)
        assert why("10.0.9.2") and not why("10.0.9.1")

    watching(cluster, test, reach=reach)


def test_where_they_may_not_be_known_that_is_told_and_all_else_goes_on() -> None:
    cluster, reach = Cluster(), Reach.of(["private"], {})

    def refuse() -> Object:
        raise ApiForbidden("no right")

    cluster.api_server = refuse

    async def test(watch: Watch, given: list[Built]) -> None:
        ((what, text),) = given[-1].troubles
        assert what == "EndpointSlice default/kubernetes" and "--allow-upstream may open" in text and "no right" in text
        assert HASH in given[-1].catalog.keys and not watch.waits_for()

    watching(cluster, test, reach=reach)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiForbidden("no right"), "may not be read"),
        (ApiRefused("not found", status=404), "not found"),
        (ApiUnavailable("away"), "cannot be read"),
    ],
)  # fmt: skip
def test_a_secret_that_cannot_be_read_is_asked_for_again_and_hurts_only_its_provider(
    error: Exception, told: str
) -> None:
    cluster = Cluster()
    cluster.held[PROVIDERS] = [provider()]
    there = cluster.secret

    def refuse() -> Object:
        raise error

    cluster.secret = refuse

    async def test(watch: Watch, given: list[Built]) -> None:
        assert urls(given[-1]) == () and HASH in given[-1].catalog.keys
        assert any(what == "Secret ns/s" and told in text for what, text in given[-1].troubles)
        cluster.secret = there
        await asyncio.sleep(2)
        assert urls(given[-1]) and not given[-1].troubles
        cluster.secret = refuse
        await asyncio.sleep(130)
        is_gone = isinstance(error, ApiRefused)
        assert bool(urls(given[-1])) != is_gone

    watching(cluster, test)


def test_secrets_are_read_when_a_provider_changes_and_every_minute() -> None:
    cluster = Cluster()
    cluster.held[PROVIDERS] = [provider()]

    async def test(watch: Watch, given: list[Built]) -> None:
        cluster.say(PROVIDERS, "MODIFIED", provider(12, priority=1))
        reads = [cluster.reads]
        for seconds in (1, 1, 60):
            await asyncio.sleep(seconds)
            reads.append(cluster.reads)
        assert reads == [1, 2, 2, 3]
        cluster.say(PROVIDERS, "DELETED", provider(13))
        await asyncio.sleep(120)
        assert cluster.reads == 3

    watching(cluster, test)


def test_news_that_cannot_be_taken_in_count_as_not_heard_and_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()

    def fail() -> bool:
        raise ZeroDivisionError("unforeseen")

    async def test(watch: Watch, given: list[Built]) -> None:
        monkeypatch.setattr(watch._assembly, "work", fail)
        cluster.say(API_KEYS, "MODIFIED", raw("alice", {"hash": HASH, "revoked": True}, 12))
        await asyncio.sleep(40)
        assert watch.age() > 30 and given[-1].catalog.fault
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.undo()
        await asyncio.sleep(70)
        assert watch.age() < 10
        assert not given[-1].catalog.fault and not given[-1].catalog.keys

    watching(cluster, test, max_stale_keys=30)
