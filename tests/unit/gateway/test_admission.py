"""What is reserved and when, whatever moment a request began at."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from decimal import Decimal
from typing import Any

import pytest

from bud.gateway.admission import Admission
from bud.gateway.catalog import Price, Served, Target
from bud.gateway.estimate import Estimate
from bud.gateway.refusal import Limited
from bud.gateway.request import Request
from bud.gateway.usage import Usage
from tests.unit.gateway.spending import DAY, Clock, Ledger, key

HALF = Price(request=Decimal("0.5"))
SERVED = Served("m", (Target("t", "bud", "m", (), price=HALF),))


async def _nothing(_: MutableMapping[str, Any] | None = None) -> MutableMapping[str, Any]:
    raise AssertionError("nobody reads or answers here")


def request(began: float) -> Request:
    async def send(_: MutableMapping[str, Any]) -> None:
        await _nothing()

    return Request({"headers": []}, _nothing, send, id="r", began=began)


async def test_requests_that_began_yesterday_spend_of_todays_budget() -> None:
    clock, who = Clock(), key("1", "Day")
    clock.now = (clock.now // DAY + 1) * DAY - 5
    began, admission = clock.now, Admission(Ledger(), clock)
    clock.now += 10
    for _ in range(2):
        admitted = await admission.admit(request(began), who, SERVED, Estimate())
        admission.settle(who, admitted, Usage(1, 1), HALF)
        clock.now += 40
        await asyncio.gather(*(desk.keep() for desk in admission._budgets._desks.values()))
    with pytest.raises(Limited, match="is spent"):
        await admission.admit(request(began), who, SERVED, Estimate())
