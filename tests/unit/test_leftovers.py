"""What gateways wrote of what is gone, and when it is deleted."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bud.context import Context, Settings
from bud.kube.client import Client
from bud.kube.kinds import CONFIG_MAPS, LEASES, PROJECTS, Resource, ledger_name
from bud.kube.seen import Seen, see
from bud.kube.store import Store
from bud.kube.write import Writer
from bud.ledger import KEY_PARTS, Book, render
from bud.leftovers import reconcile_ledger, reconcile_note
from bud.metrics import Metrics
from bud.triggers import everything, see_linked

NOW = "2026-11-22T12:00:00Z"


class Deletions:
    """A writer that only notes what it is to delete."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def remove(self, resource: Resource, *, namespace: str, name: str) -> None:
        self.names.append(name)

    async def delete(self, seen: Seen) -> None:
        self.names.append(seen.name)


def raw(name: str, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "home", "uid": name, "resourceVersion": "2", **more.pop("metadata", {})}
    return {"metadata": metadata, **more}


def ledger(written: str) -> dict[str, Any]:
    metadata = {"managedFields": [{"time": "2026-11-01T00:00:00Z"}, {"time": written}]}
    return raw(ledger_name("team"), metadata=metadata, data={"ledger.json": render(Book.new(0.0))})


def context(*seen: Seen) -> tuple[Context, Deletions]:
    store, deletions = Store(), Deletions()
    for one in seen:
        store.put(one)
    settings = Settings(image="bud:1", gateway_namespace="home")
    made = Context(cast(Client, None), store, cast(Writer, deletions), settings, Metrics(), now=lambda: NOW)
    return made, deletions


@pytest.mark.parametrize(
    ("written", "left"),
    [("2026-11-22T10:59:59Z", None), ("2026-11-22T11:30:00.000001Z", 1800.0)],
    ids=["long ago", "lately"],
)
async def test_what_was_written_lately_is_kept(written: str, left: float | None) -> None:
    note = see(LEASES, raw("x-1", spec={"renewTime": written}))
    known, deletions = context(note, see(CONFIG_MAPS, ledger(written)))
    keys = set(everything(known.store))
    assert keys == {("Lease", "home", "x-1"), ("ConfigMap", "home", ledger_name("team"))}
    for found in (
        await reconcile_note(known, "home", "x-1"),
        await reconcile_ledger(known, "home", ledger_name("team")),
    ):
        assert found == (pytest.approx(left, abs=1) if left is not None else None)
    parts = [ledger_name("team", number) for number in range(1, 1 + KEY_PARTS)]
    assert deletions.names == ([] if left is not None else ["x-1", *parts, ledger_name("team")])


async def test_what_is_of_a_project_that_is_there_stays() -> None:
    project = see_linked(PROJECTS, {"metadata": {"name": "team", "uid": "u", "resourceVersion": "1"}, "spec": {}})
    known, deletions = context(project, see(CONFIG_MAPS, ledger("2020-01-01T00:00:00Z")))
    assert await reconcile_ledger(known, "home", ledger_name("team")) is None
    assert deletions.names == []
