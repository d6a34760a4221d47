"""Rendered objects compared with YAML files; `BUD_UPDATE_GOLDEN=1 pytest` writes them anew."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "golden"


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def check(name: str, documents: Iterable[dict[str, Any]]) -> None:
    """Asserts that the documents are those of `golden/<name>.yaml`."""
    path = FOLDER / f"{name}.yaml"
    text = yaml.dump_all(documents, Dumper=_Plain, sort_keys=True, width=100)
    if os.environ.get("BUD_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; when that is meant: BUD_UPDATE_GOLDEN=1 make test-unit"
