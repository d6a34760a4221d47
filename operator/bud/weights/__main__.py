"""`bud-weights`: downloads and checks the weights that `BUD_WEIGHTS_CONFIG` names, or checks those that are there.

Exit codes: 0 done; 10 it cannot heal by trying again; 1 it may; 143 after SIGTERM (130 after SIGINT). A stop at any
moment is safe: the next start continues. A copy in a node's cache may be held then, until SIGTERM, by the same process.
See docs/weights.md and docs/node-cache.md.
"""

from __future__ import annotations

import bud.early  # noqa: F401

# isort: split
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bud.weights import cache
from bud.weights.config import Config, load, secrets
from bud.weights.download import Result, download
from bud.weights.errors import Failure, Permanent
from bud.weights.guard import Guard
from bud.weights.report import Redactor, Report, write_termination

EXIT_DONE, EXIT_TRANSIENT, EXIT_PERMANENT = 0, 1, 10
TICK_SECONDS = 1.0


class Signalled(BaseException):
    """SIGTERM or SIGINT came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Signalled(number)


def _write(line: bytes) -> None:
    """Unbuffered: what was said before a kill has been said."""
    os.write(sys.stdout.fileno(), line)


def run(environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Exit code and termination message."""
    report = Report(Redactor(secrets(environment)), write=_write)
    try:
        config = load(environment)
        guard = Guard(environment)
        guard.watch()
        if config.source.cloud is not None and config.source.cloud.endpoint is not None:
            guard.check_host(config.source.cloud.endpoint)
        return EXIT_DONE, _watched(config, report)
    except Failure as error:
        report.say(f"{error.reason}: {error.message}")
        code = EXIT_PERMANENT if isinstance(error, Permanent) else EXIT_TRANSIENT
        return code, report.failed(error.reason, error.message)
    except Signalled as signalled:
        message = "stopped from outside before the end; the next start continues"
        return 128 + signalled.number, report.failed("Interrupted", message)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__} in {where.name}, line {where.lineno}: {error}"
        report.say(f"InternalError: {message}")
        return EXIT_TRANSIENT, report.failed("InternalError", message)


def _watched(config: Config, report: Report) -> dict[str, Any]:
    """The work runs in a thread, so that this one tells the progress and hears signals at once."""
    work = ThreadPoolExecutor(1, thread_name_prefix="download").submit(_work, config, report)
    while not wait([work], timeout=TICK_SECONDS).done:
        report.tick()
    result, lock = work.result()
    report.tick()
    if config.cache and config.cache.hold:
        report.say("the copy is whole, and held")
        # Blocked over the change of programs, which forgets our handlers: the next one hears what came meanwhile.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        os.execv(sys.executable, [sys.executable, "-I", "-S", str(Path(__file__).with_name("hold.py")), str(lock)])
    return asdict(result) if result else {}


def _work(config: Config, report: Report) -> tuple[Result | None, int]:
    if config.cache:
        return cache.fill(config, config.cache, report)
    return download(config, report), -1


def main() -> NoReturn:
    signal.signal(signal.SIGTERM, _raise)
    signal.signal(signal.SIGINT, _raise)
    code, message = run(os.environ)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_termination(message, os.environ.get("BUD_TERMINATION_LOG"))
    # Threads may still wait for a silent server. A stop is as safe here as anywhere, so nobody waits for them.
    os._exit(code)


if __name__ == "__main__":
    main()
