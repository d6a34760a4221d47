"""The one writer: nothing leaves this process once it may not write any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast

import pytest

from bud.errors import ApiRefused
from bud.kube.client import Client
from bud.kube.kinds import DEPLOYMENTS, OWNER_KIND, OWNER_NAME, SERVICES
from bud.kube.lease import LeaseLost
from bud.kube.seen import Seen, see, see_own
from bud.kube.store import Store
from bud.kube.write import Count, Fence, Writer
from tests.virtual_time import run

LABELS = {OWNER_KIND: "Deployment", OWNER_NAME: "x"}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "x", "namespace": "ns", "labels": LABELS},
}
CHANGED = {**SERVICE, "spec": {"clusterIP": "None"}}
METADATA = {"name": "chat", "namespace": "ns", "uid": "u", "resourceVersion": "7"}


class ReadOnly:
    """An API server that answers reads, and fails the test on any write."""

    async def get(self, resource: object, *, namespace: str, name: str) -> Any:
        raise ApiRefused("not found", status=404)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was sent")


@asynccontextmanager
async def closed() -> AsyncIterator[None]:
    raise LeaseLost("another leads")
    yield


class Gone:
    """An API server that knows nothing of what it is asked for."""

    async def apply(self, document: object, resource: object, **_: object) -> Any:
        raise ApiRefused("not found", status=404)

    merge = apply


def writer_over(client: object, store: Store, *, fence: Fence = nullcontext, count: Count = lambda *_: None) -> Writer:
    return Writer(
        cast(Client, client),
        store,
        see_own=lambda resource, raw: see_own(resource, raw, links=frozenset()),
        instance="test",
        count=count,
        fence=fence,
    )


def own() -> Seen:
    return see_own(DEPLOYMENTS, {"metadata": METADATA}, links=frozenset())


def seen_service() -> Seen:
    return see(SERVICES, SERVICE | {"metadata": SERVICE["metadata"] | METADATA | {"name": "x"}})


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(
            lambda w: w.apply(SERVICE | {"metadata": {**SERVICE["metadata"], "name": "y"}}, SERVICES), id="create"
        ),
        pytest.param(lambda w: w.apply(CHANGED, SERVICES), id="apply"),
        pytest.param(lambda w: w.delete(seen_service()), id="delete"),
        pytest.param(lambda w: w.status(own(), {}), id="status"),
        pytest.param(lambda w: w.finalizers(own(), ()), id="finalizers"),
        pytest.param(lambda w: w.event(own(), kind="Normal", reason="A", note="b"), id="event"),
    ],
)
def test_no_write_leaves_a_process_that_lost_its_lease(write: Callable[[Writer], Awaitable[None]]) -> None:
    async def main() -> None:
        store, counted = Store(), list[tuple[str, str]]()
        store.put(seen_service())
        writer = writer_over(ReadOnly(), store, fence=closed, count=lambda *call: counted.append(call))
        with pytest.raises(LeaseLost):
            await write(writer)
        assert counted == []

    run(main())


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda w: w.status(own(), {}), id="status"),
        pytest.param(lambda w: w.finalizers(own(), ()), id="finalizers"),
    ],
)
def test_an_object_that_vanished_unheard_is_forgotten_when_it_is_written(
    write: Callable[[Writer], Awaitable[None]],
) -> None:
    async def main() -> None:
        store = Store()
        store.put(own())
        await write(writer_over(Gone(), store))
        assert store.all(DEPLOYMENTS) == []

    run(main())
