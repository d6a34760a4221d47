"""Notes of use: one for a wake-up, one in a quarter of the idle time while it is used, and callers who are held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from bud.errors import ApiUnavailable
from bud.gateway.catalog import Catalog, Nap, Served, Target
from bud.gateway.naps import Naps, among_fallbacks
from bud.gateway.refusal import Unavailable
from tests.virtual_time import run

ASLEEP = Served("m", (Target("m", "bud", "m", (), nap=Nap("m-1", 400)),))
AWAKE = Served("m", (Target("m", "bud", "m", ("http://pod/v1",), nap=Nap("m-1", 400)),))


class World:
    """Notes that were written, and when; `failing` of them fail first."""

    def __init__(self, *, most: int = 10, failing: int = 0) -> None:
        self.notes: list[tuple[str, float]] = []
        self.catalog = Catalog({}, {"team": {"m": ASLEEP}})
        self.naps = Naps(lambda: self.catalog, self.note, most=most)
        self._failing = failing

    async def note(self, id: str) -> None:
        self.notes.append((id, asyncio.get_running_loop().time()))
        if len(self.notes) <= self._failing:
            raise ApiUnavailable("away")

    async def use(self, seconds: float) -> None:
        with self.naps.use(AWAKE.targets):
            await asyncio.sleep(seconds)


def within(world: World, test: Callable[[], Awaitable[None]]) -> list[tuple[str, float]]:
    async def main() -> None:
        task = asyncio.create_task(world.naps.run())
        await test()
        task.cancel()

    run(main())
    return world.notes


def test_many_callers_at_once_are_one_note() -> None:
    world = World()

    async def test() -> None:
        await asyncio.gather(*(world.use(1) for _ in range(50)))
        await asyncio.sleep(1)

    assert within(world, test) == [("m-1", 0)]


def test_what_is_used_for_long_is_noted_every_quarter_of_the_idle_time() -> None:
    world = World()

    async def test() -> None:
        await world.use(250)
        await asyncio.sleep(1000)

    assert within(world, test) == [("m-1", 0), ("m-1", 100), ("m-1", 200), ("m-1", 300)]


def test_a_request_soon_after_a_note_is_noted_when_its_time_has_come() -> None:
    world = World()

    async def test() -> None:
        await world.use(1)
        await asyncio.sleep(9)
        await world.use(1)
        await asyncio.sleep(1000)

    assert within(world, test) == [("m-1", 0), ("m-1", 100)]


def test_a_note_that_cannot_be_written_is_written_a_second_later() -> None:
    world = World(failing=2)

    async def test() -> None:
        await world.use(0.1)
        await asyncio.sleep(10)

    assert within(world, test) == [("m-1", 0), ("m-1", 1), ("m-1", 2)]


def test_callers_are_held_until_something_answers() -> None:
    world = World()

    async def test() -> None:
        waiting = asyncio.create_task(world.naps.awake(ASLEEP, "team"))
        await asyncio.sleep(5)
        world.naps.changed()
        await asyncio.sleep(5)
        assert not waiting.done()
        world.catalog = Catalog({}, {"team": {"m": AWAKE}})
        world.naps.changed()
        assert await waiting == AWAKE
        assert await world.naps.awake(AWAKE, "team") == AWAKE

    within(world, test)


DOWN, UP = (Target(name, "openai", name, urls) for name, urls in (("down", ()), ("up", ("http://up/v1",))))


@pytest.mark.parametrize(
    ("targets", "fallbacks"),
    [
        ((DOWN,), ()),
        ((DOWN,), (UP,)),
        ((DOWN,), (UP, *ASLEEP.targets)),
        ((DOWN,), AWAKE.targets),
        ((DOWN, *AWAKE.targets), ASLEEP.targets),
    ],
)
def test_what_is_down_and_never_sleeps_is_not_waited_for(
    targets: tuple[Target, ...], fallbacks: tuple[Target, ...]
) -> None:
    served = Served("m", targets, fallbacks)

    async def test() -> None:
        async with asyncio.timeout(0):
            assert await World().naps.awake(served, "team") == served

    run(test())


def test_what_sleeps_beside_what_is_down_is_waited_for_until_it_sleeps_no_more() -> None:
    world = World()

    async def test() -> None:
        beside = Served("m", (DOWN, *ASLEEP.targets), (UP,))
        waiting = asyncio.create_task(world.naps.awake(beside, "team"))
        await asyncio.sleep(5)
        assert not waiting.done()
        world.catalog = Catalog({}, {"team": {"m": Served("m", (DOWN,), (UP,))}})
        world.naps.changed()
        await asyncio.sleep(5)
        assert waiting.done() and await waiting == Served("m", (DOWN,), (UP,))

    within(world, test)


def test_what_sleeps_among_the_fallbacks_is_waited_for_by_itself() -> None:
    def known(fallback: Target) -> Served:
        awake = Target("t", "openai", "t", ("http://t/v1",))
        return Served("m", (awake,), (awake, fallback))

    world = World()
    world.catalog = Catalog({}, {"team": {"m": known(ASLEEP.targets[0])}})

    async def test() -> None:
        asleep = world.naps.asleep(known(ASLEEP.targets[0]).fallbacks)
        assert asleep == ASLEEP.targets and not world.naps.asleep(known(AWAKE.targets[0]).fallbacks)
        pick = partial(among_fallbacks, ids=frozenset({"m"}))
        waiting = asyncio.create_task(world.naps.awake(known(ASLEEP.targets[0]), "team", pick))
        world.naps.changed()
        await asyncio.sleep(5)
        assert not waiting.done()
        world.catalog = Catalog({}, {"team": {"m": known(AWAKE.targets[0])}})
        world.naps.changed()
        assert await waiting == AWAKE

    within(world, test)


def test_of_too_many_the_last_are_refused_and_who_leaves_makes_room() -> None:
    world = World(most=8)

    async def test() -> None:
        held = [asyncio.create_task(world.naps.awake(ASLEEP, "team")) for _ in range(2)]
        await asyncio.sleep(1)
        with pytest.raises(Unavailable, match="too many wait"):
            await world.naps.awake(ASLEEP, "team")
        held[0].cancel()
        await asyncio.sleep(0)
        third = asyncio.create_task(world.naps.awake(ASLEEP, "team"))
        await asyncio.sleep(1)
        assert not third.done()
        held[1].cancel()
        third.cancel()

    within(world, test)


def test_more_callers_than_may_wait_in_all_are_refused_by_whichever_name() -> None:
    world = World(most=8)

    async def test() -> None:
        held = [asyncio.create_task(world.naps.awake(ASLEEP, f"team-{number % 4}")) for number in range(8)]
        await asyncio.sleep(1)
        with pytest.raises(Unavailable, match="too many wait"):
            await world.naps.awake(ASLEEP, "another")
        held[0].cancel()
        await asyncio.sleep(0)
        late = asyncio.create_task(world.naps.awake(ASLEEP, "another"))
        await asyncio.sleep(1)
        assert not late.done()
        for one in (*held, late):
            one.cancel()

    within(world, test)


def test_without_a_place_for_notes_nobody_is_held() -> None:
    async def test() -> None:
        assert await Naps(Catalog, None).awake(ASLEEP, "team") == ASLEEP

    run(test())


def test_one_name_that_never_wakes_leaves_room_for_others() -> None:
    world = World(most=8)

    async def test() -> None:
        held = [asyncio.create_task(world.naps.awake(ASLEEP, "team")) for _ in range(2)]
        await asyncio.sleep(1)
        with pytest.raises(Unavailable, match="too many wait"):
            await world.naps.awake(ASLEEP, "team")
        other = asyncio.create_task(world.naps.awake(ASLEEP, "another"))
        await asyncio.sleep(1)
        assert not other.done()
        for one in (*held, other):
            one.cancel()

    within(world, test)
