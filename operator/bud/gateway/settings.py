"""What whoever runs a gateway may set. One field for each option of the command, under its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bud.gateway.reach import Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`folder` holds the objects; `reach` is what `--allow-upstream` says."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 5000
    reach: Reach = field(default_factory=Reach)
    cors_origins: frozenset[str] = frozenset()
    max_connections: int = 10_000
