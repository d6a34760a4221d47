"""A program that is the first process of its container obeys a stop before it has loaded anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

FIRST_PROCESS = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
IGNORES = "import time; print('up', flush=True); time.sleep(60)"


def _stopped(program: str) -> int | None:
    """The exit status after SIGTERM from outside; None when it goes on."""
    inside = f"import os, signal; assert os.getpid() == 1; {program}"
    with subprocess.Popen([*FIRST_PROCESS, sys.executable, "-c", inside], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            (child,) = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
            subprocess.check_call(["kill", "-TERM", child])
            try:
                return process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                return None
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("program", "status"),
    [
        pytest.param(f"import bud.early; {IGNORES}", 143, id="with the early handler it ends"),
        pytest.param(IGNORES, None, id="without it the kernel drops the signal"),
    ],
)
def test_a_stop_in_the_first_moment(program: str, status: int | None) -> None:
    assert _stopped(program) == status


def test_importing_a_program_changes_nothing_where_it_is_not_the_first_process() -> None:
    handlers = "[signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]"
    check = f"import signal; before = {handlers}; import bud.early; assert {handlers} == before"
    subprocess.check_call([sys.executable, "-c", check])
