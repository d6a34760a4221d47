"""What gateways wrote of what is gone, and when it is deleted."""

from __future__ import annotations

from dataclasses import replace
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

NOW, HOURS_AGO = "2026-11-22T12:00:00Z", "2026-11-22T10:00:00Z"


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


PROJECT = see_linked(PROJECTS, {"metadata": {"name": "team", "uid": "u", "resourceVersion": "5"}, "spec": {}})


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
async def test_what_was_written_lately_is_kept_though_its_owner_is_long_gone(written: str, left: float | None) -> None:
    note = see(LEASES, raw("x-1", spec={"renewTime": written}))
    known, deletions = context(note, see(CONFIG_MAPS, ledger(written)))
    known.missed.update({("Lease", "x-1"): HOURS_AGO, ("ConfigMap", ledger_name("team")): HOURS_AGO})
    keys = set(everything(known.store))
    assert keys == {("Lease", "home", "x-1"), ("ConfigMap", "home", ledger_name("team"))}
    for found in (
        await reconcile_note(known, "home", "x-1"),
        await reconcile_ledger(known, "home", ledger_name("team")),
    ):
        assert found == (pytest.approx(left, abs=1) if left is not None else None)
    parts = [ledger_name("team", number) for number in range(1, 1 + KEY_PARTS)]
    assert deletions.names == ([] if left is not None else ["x-1", *parts, ledger_name("team")])
    assert bool(known.missed) == (left is not None)


async def test_what_is_of_a_project_that_is_there_stays() -> None:
    known, deletions = context(PROJECT, see(CONFIG_MAPS, ledger("2020-01-01T00:00:00Z")))
    assert await reconcile_ledger(known, "home", ledger_name("team")) is None
    assert deletions.names == []


async def test_an_owner_that_is_gone_for_a_moment_loses_nothing() -> None:
    known, deletions = context(see(CONFIG_MAPS, ledger("2020-01-01T00:00:00Z")))
    times, name = iter([NOW, "2026-11-22T12:59:00Z", "2026-11-22T13:59:00Z"]), ledger_name("team")
    known = replace(known, now=lambda: next(times))
    assert await reconcile_ledger(known, "home", name) == 3600
    known.store.put(PROJECT)
    assert await reconcile_ledger(known, "home", name) is None
    known.store.remove(PROJECTS, PROJECT.key, 6)
    # The hour begins anew.
    assert await reconcile_ledger(known, "home", name) == 3600
    assert deletions.names == []
    assert await reconcile_ledger(known, "home", name) is None
    assert deletions.names[-1] == name and not known.missed


@pytest.mark.parametrize(
    "found", [raw("x-1", spec={}), raw(ledger_name("team"), data={"ledger.json": "{"}), ledger("")],
    ids=["a note without a time", "a ledger that cannot be read", "a ledger without a time"],
)  # fmt: skip
async def test_what_does_not_say_when_it_was_written_is_kept(found: dict[str, Any]) -> None:
    name = found["metadata"]["name"]
    found["metadata"].pop("managedFields", None)
    known, deletions = context(see(LEASES if name == "x-1" else CONFIG_MAPS, found))
    known.missed.update({(kind, name): HOURS_AGO for kind in ("Lease", "ConfigMap")})
    reconcile = reconcile_note if name == "x-1" else reconcile_ledger
    assert await reconcile(known, "home", name) is None
    assert deletions.names == []
