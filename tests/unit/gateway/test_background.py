"""What runs beside requests: a fault that nobody foresaw is told, and what failed begins again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bud.gateway import background
from bud.gateway.background import Background


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_FIRST_PAUSE", 0.001)


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "fails"])
async def test_a_loop_that_ends_begins_again_and_that_is_told(caplog: pytest.LogCaptureFixture, ends: bool) -> None:
    begun, enough = 0, asyncio.Event()

    async def run() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            enough.set()
            await asyncio.Event().wait()
        if not ends:
            raise ZeroDivisionError("unforeseen")

    beside = Background()
    beside.loop("the counting", run)
    await asyncio.wait_for(enough.wait(), 10)
    await beside.close()
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage().startswith("the counting") for record in told] == [True, True]
    assert all(bool(record.exc_info) is not ends for record in told)


async def test_a_fault_of_what_runs_once_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        raise ZeroDivisionError("unforeseen")

    beside = Background()
    beside.once(run())
    await beside.settled()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


async def test_what_ends_with_its_owner_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    beside = Background()
    beside.loop("the waiting", asyncio.Event().wait)
    await asyncio.sleep(0)
    await beside.close()
    assert caplog.records == []
