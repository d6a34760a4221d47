"""The long form of the gateway's soak test. `BUD_SOAK_MINUTES` is its length (default: 10)."""

from __future__ import annotations

import os
from pathlib import Path

from tests import gateway_soak

MINUTES = float(os.environ.get("BUD_SOAK_MINUTES", "10"))


async def test_callers_hang_up_upstreams_die_and_objects_change_for_minutes(tmp_path: Path) -> None:
    with gateway_soak.scene(tmp_path) as scene:
        rate = await scene.half_load()
        figures = await scene.run(seconds=60 * MINUTES, rate=rate, early=min(60.0, 30 * MINUTES))
    print(f"\n{MINUTES:.0f} minutes at {rate:.0f} requests/s: {figures}")
    assert figures.growth <= gateway_soak.GROWTH, figures
