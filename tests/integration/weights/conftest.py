from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.weights import programs


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[programs.Origin]:
    root = tmp_path / "origin"
    root.mkdir()
    with programs.origin(root) as server:
        yield server


@pytest.fixture
def weights(tmp_path: Path) -> programs.Weights:
    return programs.Weights(tmp_path)
