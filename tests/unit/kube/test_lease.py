"""Leadership by a Lease, in virtual time: when it is taken, kept, lost and handed over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from bud.errors import ApiConflict, ApiRefused, ApiUnavailable
from bud.kube.client import Client
from bud.kube.lease import DEADLINE, DURATION, RETRY, Leadership, LeaseLost
from tests.virtual_time import run


class OneLease:
    """One Lease as the API server keeps it: a write must name the version that it changes. `away` answers nothing."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away = False
        self.delay = 0.0

    async def get(self, resource: object, *, namespace: str, name: str) -> Any:
        await self._answer()
        if self.lease is None:
            raise ApiRefused("not found", status=404)
        return self._shown()

    async def create(self, document: Any, resource: object, *, namespace: str) -> Any:
        await self._answer()
        if self.lease is not None:
            raise ApiConflict("already exists")
        self.lease = dict(document["spec"])
        self.version += 1
        return self._shown()

    async def merge(self, patch: Any, resource: object, *, namespace: str, name: str, manager: str) -> Any:
        await self._answer()
        if self.lease is None:
            raise ApiRefused("not found", status=404)
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise ApiConflict("changed")
        self.lease |= patch["spec"]
        self.version += 1
        return self._shown()

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay)
        if self.away:
            raise ApiUnavailable("connection refused")

    def _shown(self) -> Any:
        return {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(self.lease or {})}

    @property
    def holder(self) -> str:
        return str((self.lease or {}).get("holderIdentity", ""))


def candidate(server: OneLease, identity: str) -> Leadership:
    return Leadership(cast(Client, server), namespace="bud", name="bud-operator", identity=identity)


def now() -> float:
    return asyncio.get_running_loop().time()


async def writes_pass(leader: Leadership) -> bool:
    with suppress(LeaseLost):
        async with leader.fence():
            return True
    return False


def test_the_first_candidate_leads_at_once_and_may_write() -> None:
    async def main() -> None:
        server = OneLease()
        leader = candidate(server, "a")
        assert not await writes_pass(leader)
        await leader.acquire()
        assert (server.holder, now()) == ("a", 0.0)
        assert await writes_pass(leader)

    run(main())


def test_a_leader_that_renews_is_never_replaced() -> None:
    async def main() -> None:
        server = OneLease()
        first, second = candidate(server, "a"), candidate(server, "b")
        await first.acquire()
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(first.hold())
            waiting = group.create_task(second.acquire())
            await asyncio.sleep(600)
            assert server.holder == "a" and not waiting.done()
            assert await writes_pass(first) and not await writes_pass(second)
            holding.cancel()
            waiting.cancel()

    run(main())


def test_a_leader_that_vanished_is_replaced_soon_after_its_lease_ended() -> None:
    async def main() -> None:
        server = OneLease()
        first, second = candidate(server, "a"), candidate(server, "b")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(61)
        holding.cancel()
        vanished = now()
        await waiting
        assert server.holder == "b"
        assert now() - vanished <= DURATION + RETRY
        assert not await writes_pass(first), "the fence of the old leader closed before the new one led"

    run(main())


def test_the_fence_closes_before_anybody_else_can_lead() -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        await asyncio.sleep(DEADLINE - 0.01)
        assert await writes_pass(first)
        await asyncio.sleep(0.01)
        assert not await writes_pass(first)

    run(main())


def test_a_write_that_would_outlast_the_lease_is_given_up() -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        await asyncio.sleep(DEADLINE - 1)
        with pytest.raises(LeaseLost, match="did not end before the Lease"):
            async with first.fence():
                await asyncio.sleep(3600)
        assert now() == DURATION

    run(main())


def test_a_slow_write_passes_for_as_long_as_the_lease_is_renewed() -> None:
    async def main() -> None:
        first = candidate(OneLease(), "a")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        async with first.fence():
            await asyncio.sleep(29)
        holding.cancel()

    run(main())


def test_a_renewal_that_hangs_leaves_time_for_another() -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        await asyncio.sleep(RETRY / 2)
        server.delay = 3600.0
        await asyncio.sleep(RETRY)
        server.delay = 0.0
        await asyncio.sleep(60)
        assert not holding.done() and await writes_pass(first)
        holding.cancel()

    run(main())


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_leader_that_cannot_renew_ends_at_the_deadline(how: str) -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        server.away, server.delay = (how == "refused"), (3600.0 if how == "silent" else 0.0)
        with pytest.raises(LeaseLost, match="could not be renewed"):
            await first.hold()
        assert now() == DEADLINE

    run(main())


def test_one_failed_renewal_is_no_reason_to_end() -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        await asyncio.sleep(RETRY / 2)
        server.away = True
        await asyncio.sleep(RETRY)
        server.away = False
        await asyncio.sleep(60)
        assert not holding.done() and await writes_pass(first)
        holding.cancel()

    run(main())


def test_a_leader_that_finds_another_in_its_place_ends_at_once() -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        assert server.lease is not None
        server.lease["holderIdentity"] = "b"
        server.version += 1
        with pytest.raises(LeaseLost, match="another"):
            await first.hold()
        await first.release()
        assert server.holder == "b", "it must not free what is not its own"

    run(main())


def test_a_lease_that_somebody_deleted_or_labelled_is_kept() -> None:
    async def main() -> None:
        server = OneLease()
        first = candidate(server, "a")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        await asyncio.sleep(5)
        server.lease = None
        await asyncio.sleep(5)
        assert server.holder == "a"
        server.version += 1
        await asyncio.sleep(60)
        assert server.holder == "a" and not holding.done()
        holding.cancel()

    run(main())


def test_a_leader_that_stops_hands_over_at_once() -> None:
    async def main() -> None:
        server = OneLease()
        first, second = candidate(server, "a"), candidate(server, "b")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1)
        await first.release()
        start = now()
        await waiting
        assert server.holder == "b" and now() - start <= RETRY
        assert server.lease is not None and server.lease["leaseTransitions"] == 1
        assert not await writes_pass(first)

    run(main())


def test_of_two_that_come_at_once_one_leads() -> None:
    async def main() -> None:
        server = OneLease()
        server.delay = 0.05
        candidates = [candidate(server, name) for name in "ab"]
        tasks = [asyncio.create_task(each.acquire()) for each in candidates]
        await asyncio.sleep(3)
        assert sorted(task.done() for task in tasks) == [False, True]
        for task in tasks:
            task.cancel()

    run(main())
