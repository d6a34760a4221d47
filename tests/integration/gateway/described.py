"""Requests made up by schemathesis from the gateway's own description, and what it finds wrong with the answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import fetched
from tests.gateway_process import KEY
from tests.integration.gateway.reference import Reference

_LIBRARIES = Path(__file__).parent / "libraries"


def explore(reference: Reference, folder: Path, *, phases: str, examples: int, seconds: int) -> str:
    """What it has to say, in `folder`; raises AssertionError for what it finds. The same requests each time.

    WebSockets are left out: it cannot open them.
    """
    path = os.pathsep.join(map(str, (fetched.libraries(_LIBRARIES / "schemathesis.lock"), _LIBRARIES)))
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(_LIBRARIES / "schemathesis.toml"),
        "run", f"{reference.gateway.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}",
        "--exclude-path-regex", "realtime", "--phases", phases, "--max-examples", str(examples), "--seed", "1",
        "--continue-on-failure",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "SCHEMATHESIS_HOOKS": "hooks"},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in reference.gateway.log
    return done.stdout
