"""The long forms of the fault tests, for `make soak`. `BUD_SOAK_MINUTES` is the length of the loops (default: 10)."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests import faults
from tests.cluster.own import Own
from tests.faults import MODEL_COUNT, Pair, Scene
from tests.operator_process import OperatorProcess

MINUTES = float(os.environ.get("BUD_SOAK_MINUTES", "10"))


@pytest.fixture
def plane() -> Iterator[Own]:
    with faults.plane("soak") as own:
        yield own


@pytest.fixture
def operator(plane: Own, tmp_path: Path) -> Iterator[OperatorProcess]:
    with faults.scene_operator(plane.cluster.kubeconfig, tmp_path) as process:
        yield process


@pytest.fixture
async def scene(plane: Own, operator: OperatorProcess) -> AsyncIterator[Scene]:
    async with faults.fleet(plane, "soak") as fleet:
        yield Scene(plane, operator, fleet)


async def test_300_seconds_without_the_api_server(scene: Scene) -> None:
    seconds = await scene.outage(1200 - 2 * MODEL_COUNT, seconds=300, seed=1)
    print(
        f"\n300 s without the API server, 1,200 objects in flight: 0 wrong, right again {seconds:.0f} s after the last change"
    )


async def test_800_deployments_and_75_seconds_without_the_api_server(scene: Scene) -> None:
    seconds = await scene.outage(800, seconds=75, seed=2)
    print(
        f"\n75 s without the API server, 800 Deployments in flight: 0 wrong, right again {seconds:.0f} s after the last change"
    )


async def test_kills_for_minutes(scene: Scene) -> None:
    end, kills = time.monotonic() + 60 * MINUTES, 0
    for seed in itertools.count():
        await scene.kills(200, times=5, seed=seed)
        kills += 5
        if time.monotonic() > end:
            break
    print(f"\n{MINUTES:.0f} minutes: {kills} kills, {200 * (seed + 1)} Deployments created: 0 wrong after each round")


async def test_leaders_die_for_minutes(plane: Own, tmp_path: Path) -> None:
    end, taken = time.monotonic() + 60 * MINUTES, list[float]()
    async with faults.fleet(plane, "leaders") as fleet:
        with Pair.start(plane, tmp_path) as pair:
            taken.append(await pair.kill_leader(fleet, 1200 - MODEL_COUNT, seed=0))
            for seed in itertools.count(1):
                if time.monotonic() > end:
                    break
                taken.append(await pair.kill_leader(fleet, 100, seed=seed))
    print(f"\n{len(taken)} leaders killed: the other wrote after {min(taken):.1f} s to {max(taken):.1f} s; 0 wrong")
    assert max(taken) <= 15
