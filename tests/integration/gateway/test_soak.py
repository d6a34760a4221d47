"""The short form of the gateway's soak test, at a rate that leaves the machine to others; `make soak` has the long one."""

from __future__ import annotations

from pathlib import Path

from tests import gateway_soak


async def test_a_minute_of_callers_that_hang_up_upstreams_that_die_and_objects_that_change(
    tmp_path: Path,
) -> None:
    with gateway_soak.scene(tmp_path) as scene:
        figures = await scene.run(seconds=60, rate=20, early=20)
    print(figures)
    assert figures.growth <= gateway_soak.GROWTH, figures
