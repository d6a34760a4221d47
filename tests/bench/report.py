"""From what was measured to a table for people, and into docs/benchmarks.md."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from tests.bench.results import Results
from tests.bench.stage import BURST, CONCURRENCY, QPS
from tests.cluster.tools import KUBERNETES

_PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
_MIB = 1024**2

Row = tuple[str, str, str]
"""What was measured, what came out, and the goal."""


def cluster() -> str:
    """What bounds a run against an API server."""
    return (
        f"Kubernetes {KUBERNETES}. In both runs {CONCURRENCY} writers make the owners, and {CONCURRENCY} workers all else. The controller manager and the\n"
        f"scheduler are allowed {QPS} requests a second (burst {BURST}): that bounds the time until Deployments are Active.\n"
    )


def say(line: str) -> None:
    """Prints at once."""
    print(line, flush=True)


def loads() -> str:
    """How many processes wanted to run in the last minute, five and fifteen."""
    return ", ".join(f"{mean:.1f}" for mean in os.getloadavg())


def machine() -> str:
    """The machine in a sentence."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.+)", info)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert memory is not None
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {int(memory[1]) / _MIB:.0f} GiB of memory, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def rows(results: Results) -> list[Row]:
    """The table of one size."""
    pairs, number = results.pairs, results.pairs[0].operator.objects
    found: list[Row] = [
        (
            f"{number:,} Deployments at once: until all children and first statuses stand, operator to bare client",
            f"{results.ratio('children'):.2f}x ({_both(results, 'children')})",
            "1.15x",
        ),
        (
            "until all are Active, to the bare client's until all are Ready",
            f"{results.ratio('settled'):.2f}x ({_both(results, 'settled')})",
            "",
        ),
        (
            "time per Deployment until children and status stand",
            f"{1000 * median(p.operator.children for p in pairs) / number:.1f} ms",
            "",
        ),
        ("the operator's CPU meanwhile", f"{median(p.operator.cpu for p in pairs):.1f} s", ""),
        ("API calls for each Deployment from creation to Active", _calls(pairs[0].operator.calls), ""),
        (
            f"memory of the operator at 0 and at {number:,} Deployments",
            f"{_mib(median(p.memory_before for p in pairs))} and {_mib(median(p.memory for p in pairs))}",
            "300 MB at 10,000",
        ),
    ]
    for settled in results.settled:
        writes = ", ".join(f"{what} {count}" for what, count in settled.writes.items()) or "0"
        found += [
            (
                f"writes a minute when settled, while live autoscalers write {settled.autoscaler_writes} times",
                writes,
                "0 besides the Lease",
            ),
            ("CPU when settled, share of a core", f"{100 * settled.cpu:.1f} %", "1 %"),
            ("memory after that minute", _mib(settled.memory), ""),
        ]
    starts = results.starts
    found.append(
        (
            "cold start: from the start of the process to its first write",
            f"{median(s.first_write for s in starts):.2f} s (ready after {median(s.ready for s in starts):.2f} s)",
            "2 s",
        )
    )
    return found


def _both(results: Results, what: str) -> str:
    told = [
        f"{getattr(pair.operator, what):.1f} s to {getattr(pair.bare, what):.1f} s"
        for pair in results.pairs
        if pair.bare
    ]
    return "; ".join(told)


def _calls(calls: Iterable[tuple[str, float]] | object) -> str:
    assert isinstance(calls, dict)
    told = ", ".join(f"{what} {count:.2f}" for what, count in calls.items() if count >= 0.005)
    return f"{sum(calls.values()):.1f}: {told}"


def _mib(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def table(found: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = "".join(f"| {what} | {value} | {goal} |\n" for what, value, goal in found)
    return f"| What | Measured | Goal |\n|---|---|---|\n{lines}"


def write(part: str, sections: Sequence[tuple[str, str]], *, load: str, about: str = "") -> None:
    """Prints the sections and puts them into the page, in place of what an earlier run of the same part wrote.

    `load` is the machine's when the run began; `about` is what else must be known.
    """
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    text = f"Measured {day} on {machine()}.\nLoad averages: {load} at the start, {loads()} at the end.\n{about}"
    text += "".join(f"\n### {title}\n\n{body}" for title, body in sections)
    say(text)
    page = _PAGE.read_text()
    start, end = f"<!-- {part}: written by the program -->\n", f"<!-- end of {part} -->"
    before, _, rest = page.partition(start)
    _PAGE.write_text(before + start + text + end + rest.partition(end)[2])
