"""`make bench` and `make bench-large`: measures, prints a table, and writes it into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Sequence

from tests.bench import burst, large, report
from tests.bench.burst import Recipe
from tests.bench.results import Pair, Results
from tests.bench.settled import cold_start, settled
from tests.bench.stage import stage, usage

NUMBER = 1000
PAIRS = 2


async def pair(number: int, results: Results, *, bare: bool, live: bool) -> None:
    """One pair; with `live`, what the settled operator costs is measured between its two halves."""
    made, recipes = await _operator_half(number, results, live=live)
    results.pairs.append(made)
    if bare:
        async with stage(number) as here:
            made.bare = await burst.by_bare_client(here, recipes)


async def _operator_half(number: int, results: Results, *, live: bool) -> tuple[Pair, Sequence[Recipe]]:
    async with stage(number) as here:
        results.starts.append(await cold_start(here))
        before = usage(here.operator.pid).memory
        made = Pair(await burst.by_operator(here, number), memory_before=before)
        made.memory = usage(here.operator.pid).memory
        recipes = await burst.recipes(here)
        if live:
            results.settled.append(await settled(here))
        return made, recipes


async def _bench(number: int, pairs: int) -> Results:
    results = Results()
    for repetition in range(pairs):
        await pair(number, results, bare=True, live=not repetition)
        report.say(f"pair {repetition + 1}:\n{report.table(report.rows(results))}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--large", action="store_true", help="5,000 and 10,000 Deployments")
    parser.add_argument("--number", type=int, default=NUMBER, help=f"how many Deployments; usually {NUMBER:,}")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"how often; usually {PAIRS}")
    given, load = parser.parse_args(), report.loads()
    if given.large:
        report.write(
            "bench-large", [("How the cost grows", asyncio.run(large.table()))], load=load, about=report.cluster()
        )
        return
    deployments = report.table(report.rows(asyncio.run(_bench(given.number, given.pairs))))
    # In a process of its own: the peak that Linux tells of a child is never below what its parent had.
    measure = [sys.executable, "-m", "tests.bench.weights"]
    downloads = subprocess.run(measure, stdout=subprocess.PIPE, text=True, check=True).stdout.rstrip()
    sections = [
        ("Deployments", deployments),
        ("Downloads (goal: 0.8 of curl's speed, 150 MB)", f"    {_indented(downloads)}\n"),
    ]
    report.write("bench", sections, load=load, about=report.cluster())


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")


if __name__ == "__main__":
    main()
