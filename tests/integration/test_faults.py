"""Kills of the operator and outages of the API server with many objects in flight: nothing wrong, stuck or orphaned."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests import faults
from tests.cluster.own import Own
from tests.faults import MODEL_COUNT, Scene
from tests.gate import Gate
from tests.operator_process import OperatorProcess

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def plane() -> Iterator[Own]:
    with faults.plane("faults") as own:
        yield own


@pytest.fixture
def operator(plane: Own, tmp_path: Path) -> Iterator[OperatorProcess]:
    """One whose resync comes too seldom to help."""
    with faults.scene_operator(plane.cluster.kubeconfig, tmp_path) as process:
        yield process


@pytest.fixture
async def scene(plane: Own, operator: OperatorProcess) -> AsyncIterator[Scene]:
    async with faults.fleet(plane, f"faults-{next(_NUMBERS)}") as fleet:
        yield Scene(plane, operator, fleet)


async def test_four_kills_with_1200_objects_in_flight_leave_nothing_wrong(scene: Scene) -> None:
    await scene.kills(1200 - MODEL_COUNT, times=4, seed=1)


async def test_20_seconds_without_the_api_server_lose_nothing(scene: Scene) -> None:
    await scene.outage(200, seconds=20, seed=200)


async def test_what_was_deleted_behind_a_broken_watch_stays_gone(plane: Own, tmp_path: Path) -> None:
    async with faults.fleet(plane, "broken-watch", models=1) as fleet:
        with (
            Gate.before(plane.cluster.kubeconfig, tmp_path) as (gate, kubeconfig),
            faults.scene_operator(kubeconfig, tmp_path) as operator,
        ):
            await Scene(plane, operator, fleet).broken_watch(20, gate)
