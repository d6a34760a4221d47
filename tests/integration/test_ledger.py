"""Budgets on ledgers that a real API server keeps: replicas that race, one that dies, and rights that are missing."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from bud.api.limits import Limits
from bud.gateway.budgets import Budgets
from bud.gateway.catalog import Key, Project, Spending
from bud.gateway.kube_ledger import KubeLedger
from bud.gateway.ledgers import Changed
from bud.gateway.refusal import Limited
from bud.kube.client import Client
from bud.kube.connect import connect
from bud.kube.kinds import ledger_name
from bud.ledger import LABEL, PROJECT, Book, Part, Used, key_account, parse, part_of, parts
from tests.cluster.handle import Cluster

CENT = Decimal("0.01")


@pytest.fixture(scope="module")
def namespace(control_cluster: Cluster) -> str:
    name = f"ledger-{secrets.token_hex(4)}"
    control_cluster.kubectl("create", "namespace", name)
    return name


@pytest.fixture
async def client(control_cluster: Cluster) -> AsyncIterator[Client]:
    opened = Client.over(await connect(str(control_cluster.kubeconfig)), user_agent="bud-gateway/test")
    yield opened
    await opened.close()


@pytest.fixture
def ledger(client: Client, namespace: str) -> KubeLedger:
    return KubeLedger(client, namespace=namespace)


def key(project: str, uid: str = "u-1") -> Key:
    """One that may spend a dollar in all."""
    return Key(uid, "a", Project(project, project, Limits()), "hash", budget=Spending(Decimal(1), "Total"))


async def spend(budgets: Budgets, who: Key, cost: Decimal = CENT) -> bool:
    try:
        hold = await budgets.reserve(who, cost, now=time.time())
    except Limited:
        return False
    budgets.settle(who, hold, Used(1, 2, 3, cost), now=time.time())
    return True


ALICE = key_account("u-1")


def written(cluster: Cluster, namespace: str, project: str, account: str = ALICE) -> Book:
    name = ledger_name(*part_of(project, account))
    label = "true" if account == PROJECT else "keys"
    (found,) = json.loads(
        cluster.kubectl("-n", namespace, "get", "configmaps", "-l", f"{LABEL}={label}", "-o", "json",
                        "--field-selector", f"metadata.name={name}")
    )["items"]  # fmt: skip
    assert found["metadata"]["annotations"]["bud.studio/name"] == project
    return parse(found["data"]["ledger.json"])


async def test_replicas_that_race_spend_all_and_no_more(
    ledger: KubeLedger, control_cluster: Cluster, namespace: str
) -> None:
    replicas, who = [Budgets(ledger, time.time) for _ in range(2)], key("race")
    served = await asyncio.gather(*(spend(replicas[n % 2], who) for n in range(120)))
    for budgets in replicas:
        await budgets.close()
    last = Budgets(ledger, time.time)
    rest = [await spend(last, who) for _ in range(101 - sum(served))]
    await last.close()
    assert (sum(served) + sum(rest), rest[-1]) == (100, False)
    book = await asyncio.to_thread(written, control_cluster, namespace, "race")
    whole = await asyncio.to_thread(written, control_cluster, namespace, "race", PROJECT)
    account = book.accounts[ALICE]
    assert (account.requests, account.input_tokens, account.output_tokens) == (100, 200, 300)
    assert account.spent["Total"] == whole.accounts[PROJECT].spent["Month"] == 1
    assert not any(one.leases for found in (book, whole) for one in found.replicas.values())


async def test_a_thousand_keys_that_start_at_once_cost_few_writings(
    ledger: KubeLedger, control_cluster: Cluster, namespace: str
) -> None:
    replicas = [Budgets(ledger, time.time) for _ in range(2)]
    keys = [key("many", str(uuid.uuid4())) for _ in range(1000)]
    assert all(await asyncio.gather(*(spend(budgets, who) for who in keys for budgets in replicas)))
    names = {ledger_name(*part) for part in parts("many")}
    calls = await asyncio.to_thread(control_cluster.writes, "bud-gateway/test")
    tried = [call.code for call in calls if call.name in names or (call.verb == "create" and call.name == "")]
    # Of each part and replica one for who came first, and one for all others; more where two meet.
    assert len(names) - 1 <= sum(code < 300 for code in tried) <= len(tried) < 60
    for budgets in replicas:
        await budgets.close()
    book = await asyncio.to_thread(written, control_cluster, namespace, "many", PROJECT)
    assert (book.accounts[PROJECT].requests, book.accounts[PROJECT].spent["Total"]) == (2000, Decimal(20))


async def test_what_a_dead_replica_had_on_lease_counts_as_spent(
    ledger: KubeLedger, control_cluster: Cluster, namespace: str
) -> None:
    dead, alive, who = Budgets(ledger, time.time), Budgets(ledger, time.time), key("dead")
    assert await spend(dead, who)
    served = [await spend(alive, who) for _ in range(100)]
    await alive.close()
    assert sum(served) == 96
    book = await asyncio.to_thread(written, control_cluster, namespace, "dead")
    assert [one.leases for one in book.replicas.values() if one.leases] == [{ALICE: {"Total": Decimal("0.04")}}]


@pytest.mark.parametrize(
    "project", ["new", "team.with-dots-and-a-name-as-long-as-names-of-projects-may-be-in-a-cluster"]
)
async def test_of_two_who_write_the_same_version_one_is_refused(ledger: KubeLedger, project: str) -> None:
    part = Part(project, 8)
    book, version = await ledger.read(part, now=0.0)
    await ledger.write(part, book, version)
    with pytest.raises(Changed):
        await ledger.write(part, book, version)
    book, version = await ledger.read(part, now=0.0)
    book.add("project", "2026-11-22", Used(cost=Decimal(1)))
    await ledger.write(part, book, version)
    with pytest.raises(Changed):
        await ledger.write(part, book, version)
    assert (await ledger.read(part, now=0.0))[0] == book


async def test_a_ledger_that_is_deleted_begins_anew(
    ledger: KubeLedger, control_cluster: Cluster, namespace: str
) -> None:
    part = Part("gone", 0)
    book, version = await ledger.read(part, now=0.0)
    await ledger.write(part, book, version)
    book, version = await ledger.read(part, now=0.0)
    command = ("-n", namespace, "delete", "configmap", ledger_name(*part))
    await asyncio.to_thread(control_cluster.kubectl, *command)
    with pytest.raises(Changed):
        await ledger.write(part, book, version)
    assert (await ledger.read(part, now=0.0))[1] == ""
