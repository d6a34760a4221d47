"""Many more requests made up from the gateway's description than `make test` sends."""

from __future__ import annotations

from pathlib import Path

from tests.integration.gateway.described import explore
from tests.integration.gateway.reference import running_reference


def test_many_requests_made_up_from_the_description_find_no_fault(tmp_path: Path) -> None:
    with running_reference(tmp_path / "objects") as reference:
        explore(reference, tmp_path, phases="coverage,fuzzing", examples=100, seconds=900)
