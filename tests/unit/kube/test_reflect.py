"""The reflector: pages become one list, and one object that cannot be read hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from bud.errors import ApiForbidden, ApiUnavailable
from bud.kube.client import Client, Object
from bud.kube.kinds import NODES, Resource
from bud.kube.reflect import Reflector
from bud.kube.seen import Seen, see
from bud.kube.store import Store
from tests.virtual_time import run


def node(name: str, gpus: str) -> Object:
    metadata = {"name": name, "uid": name, "resourceVersion": "5"}
    return {"metadata": metadata, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}


class Pages:
    """Lists in two pages; nothing else is asked of it."""

    def __init__(self, *pages: list[Object]) -> None:
        self._pages = pages

    async def list_page(self, resource: Resource, *, namespace: str | None, selector: str, token: str) -> Any:
        number = int(token or 0)
        more = str(number + 1) if number + 1 < len(self._pages) else ""
        return {"items": self._pages[number], "metadata": {"resourceVersion": "9", "continue": more}}


def test_all_pages_are_taken_and_what_cannot_be_read_is_left_out() -> None:
    store = Store()
    pages = Pages([node("a", "8"), node("broken", "many")], [node("b", "1k")])
    reflector = Reflector(cast(Client, pages), store, NODES, trim=see)
    assert asyncio.run(reflector.list()) == "9"
    assert {seen.name for seen in store.all(NODES) if seen.data.gpus} == {"a", "b"}
    assert reflector.listed.is_set()


class Quiet(Pages):
    """Lists once, then a watch in which nothing more is said after some time."""

    async def watch(self, resource: Resource, **_: Any) -> AsyncIterator[Object]:
        await asyncio.sleep(100)
        yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "10"}}}
        await asyncio.sleep(3600)


def test_it_tells_how_long_nothing_was_heard() -> None:
    async def main() -> list[float]:
        reflector = Reflector(cast(Client, Quiet([])), Store(), NODES, trim=see)
        running = asyncio.create_task(reflector.run())
        found = []
        for seconds in (90, 20, 190):
            await asyncio.sleep(seconds)
            found.append(reflector.silent)
        running.cancel()
        return found

    assert run(main()) == [90, 10, 200]


class Broken(Pages):
    """Lists, and counts it; every watch ends as `end` says."""

    def __init__(self, end: Exception | None, *, news: bool = False) -> None:
        super().__init__([])
        self.lists = self.watches = 0
        self._end, self._news = end, news

    async def list_page(self, *arguments: Any, **options: Any) -> Any:
        self.lists += 1
        return await super().list_page(*arguments, **options)

    async def watch(self, resource: Resource, **_: Any) -> AsyncIterator[Object]:
        self.watches += 1
        if self._news:
            yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(10 + self.watches)}}}
        if self._end is not None:
            raise self._end


@pytest.mark.parametrize(
    ("end", "news", "lists", "watches"),
    [
        pytest.param(ApiForbidden("no right to watch"), False, 15, 15, id="a watch that is refused"),
        pytest.param(ApiUnavailable("too old", reason="Expired"), False, 15, 15, id="a watch that is always too old"),
        pytest.param(ValueError("not what it should be"), False, 15, 15, id="a watch that tells nonsense"),
        pytest.param(None, False, 1, 15, id="a watch that ends at once"),
        pytest.param(ApiUnavailable("broke"), True, 1000, 1000, id="a watch that tells something before it breaks"),
    ],
)
def test_what_never_works_is_tried_less_and_less(end: Exception | None, news: bool, lists: int, watches: int) -> None:
    async def main() -> Broken:
        server = Broken(end, news=news)
        running = asyncio.create_task(Reflector(cast(Client, server), Store(), NODES, trim=see).run())
        await asyncio.sleep(90)
        assert not running.done()
        running.cancel()
        return server

    found = run(main())
    assert found.lists <= lists and found.watches <= watches
    assert (found.watches > 100) == news


def test_what_the_store_has_already_is_not_read_again() -> None:
    store, read = Store(), []

    def trim(resource: Resource, raw: Object) -> Seen:
        read.append((raw["metadata"]["name"], raw["metadata"]["resourceVersion"]))
        return see(resource, raw)

    newer = node("b", "1")
    newer["metadata"]["resourceVersion"] = "6"
    for answered in (node("a", "8"), newer):
        store.put(see(NODES, answered))
    old = node("a", "4")
    old["metadata"]["resourceVersion"] = "4"
    changed = node("a", "2")
    changed["metadata"]["resourceVersion"] = "8"
    reflector = Reflector(cast(Client, Pages([old, node("b", "4")], [node("c", "4")])), store, NODES, trim=trim)
    asyncio.run(reflector.list())
    assert read == [("c", "5")]
    asyncio.run(Reflector(cast(Client, Pages([changed, newer])), store, NODES, trim=trim).list())
    assert read == [("c", "5"), ("a", "8")]
    assert {seen.name: seen.version for seen in store.all(NODES)} == {"a": 8, "b": 6}
