"""How the cost grows with the number of Deployments: the time for each of them, and the operator's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.bench import burst, report
from tests.bench.burst import Burst
from tests.bench.stage import Stage, stage, usage

_PAIRED = (1000, 5000)
_MOST = 10_000
_IDLE_QPS = 20
"""Of the controllers: at full speed they take most of two cores, and an hour to make 10,000 pods."""
_NEVER = "24h"
"""Autoscalers are there and rest: without figures to read, each of them would write of that all the time."""


_HEAD = (
    "| Deployments | time for each, operator | time for each, bare client | ratio | the operator's memory before | and with "
    "all Deployments and their children (goal: 300 MB) |\n|---|---|---|---|---|---|\n"
)


async def table() -> str:
    """Pairs of runs until all children and first statuses stand, then one run of the operator alone, for its memory."""
    rows, before = [], list[tuple[Burst, Burst]]()
    for number in _PAIRED:
        async with stage(number, autoscalers_every=_NEVER, qps=_IDLE_QPS) as here:
            await _begin(here)
            ours = await burst.by_operator(here, number, serving=False)
            recipes = await burst.recipes(here)
        async with stage(number, autoscalers_every=_NEVER, qps=_IDLE_QPS) as here:
            theirs = await burst.by_bare_client(here, recipes, serving=False)
        before.append((ours, theirs))
        rows.append(f"| {number:,} | {_each(ours)} | {_each(theirs)} | {ours.children / theirs.children:.2f}x | | |\n")
        report.say(rows[-1])
    async with stage(_MOST, autoscalers_every=_NEVER, qps=_IDLE_QPS) as here:
        await _begin(here)
        empty = usage(here.operator.pid).memory
        ours = await burst.by_operator(here, _MOST, serving=False)
        memory = usage(here.operator.pid).memory
    rows.append(f"| {_MOST:,} | {_each(ours)} | | | {empty / 1e6:.0f} MB | {memory / 1e6:.0f} MB |\n")
    return f"{_HEAD}{''.join(rows)}\n{_growth(before)}\n"


async def _begin(here: Stage) -> None:
    await asyncio.to_thread(here.operator.start)


def _each(run: Burst) -> str:
    return f"{1000 * run.children / run.objects:.1f} ms"


def _growth(pairs: Sequence[tuple[Burst, Burst]]) -> str:
    """By how much the time for each grows from the fewest to the most."""
    (ours, theirs), (our_most, their_most) = pairs[0], pairs[-1]
    return (
        f"From {ours.objects:,} to {our_most.objects:,} the operator's time for each grows by {_percent(ours, our_most)} % "
        f"(goal: at most 20 %), the bare client's by {_percent(theirs, their_most)} %. The controllers are held back "
        f"({_IDLE_QPS} requests a second), so that few pods come and the API server is there for the writes; autoscalers "
        "rest. Each pod takes a little more of the operator's memory.\n"
    )


def _percent(first: Burst, last: Burst) -> int:
    return round(100 * ((last.children / last.objects) / (first.children / first.objects) - 1))
