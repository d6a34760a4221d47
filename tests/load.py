"""A steady load of real requests on a served model: `python load.py MODEL (URL KEY)…` in a pod, so that it goes through
Services: an engine's, whose key is "", and a gateway's.

Each request has a connection of its own, as from a client of its own; every other one is streamed, and takes longer. A
request is answered when all of its body came with status 200. Totals are printed as a JSON line each second.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field

import aiohttp

WORKERS = 4
TOKENS = {False: 5, True: 60}


@dataclass
class Totals:
    """Requests that were answered, and how the others were lost: the first few of them in words."""

    answered: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, way: tuple[str, str], model: str, *, stream: bool) -> None:
    """One request; raises what went wrong."""
    url, key = way
    question = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    question |= {"max_tokens": TOKENS[stream], "ignore_eos": True}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with session.post(f"{url}/chat/completions", json=question, headers=headers) as answer:
        body = await answer.text()
    if answer.status != 200:
        raise ValueError(f"status {answer.status}: {body[:200]}")
    if stream and "data: [DONE]" not in body:
        raise ValueError(f"the stream is cut short: {body[-200:]}")


async def work(totals: Totals, way: tuple[str, str], model: str) -> None:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        stream = False
        while True:
            try:
                await ask(session, way, model, stream=stream)
                totals.answered += 1
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                totals.lost += 1
                totals.faults = [*totals.faults, f"{way[0]}: {type(error).__name__}: {error}"][:5]
            stream = not stream
            await asyncio.sleep(0.05)


async def run(model: str, ways: list[tuple[str, str]]) -> None:
    totals = Totals()
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(work(totals, ways[number % len(ways)], model))
        while True:
            print(json.dumps(asdict(totals)), flush=True)
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], list(zip(sys.argv[2::2], sys.argv[3::2], strict=True))))
