"""`bud-probe`: stands beside an engine and is ready once that engine has answered a real request."""

import bud.early  # noqa: F401

# isort: split
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping

from bud.probe.drain import drained
from bud.probe.watch import Target, Watch
from bud.probe.wire import parse_address, serve

USAGE = """\
bud-probe proves that an inference engine answers: after each start of the engine it makes one real request,
and GET /readyz is 200 only once that was answered well. GET /healthz is 200 while bud-probe runs. GET /drain is
answered once no new connection to the engine is to be expected, if its pod is to end, and no caller waits any more.

Settings (environment):
  BUD_PROBE_ENGINE       the engine's address, as http://127.0.0.1:8000
  BUD_PROBE_HEALTH_PATH  its health path (default /health)
  BUD_PROBE_TASK         the model's task, a Hugging Face pipeline tag (default text-generation)
  BUD_PROBE_MODEL        the name that the engine serves the model under
  BUD_PROBE_ADAPTERS     names of adapters, with commas between them: each must answer too
  BUD_PROBE_ASK          where requests are made, if not at the engine itself: a relay's address
  BUD_PROBE_PATH         the path to ask, where it is not the task's usual one
  BUD_PROBE_PORT         the port for /readyz, /healthz and /drain (default 9901)
  BUD_PROBE_DRAIN        the longest that /drain may take, in seconds (default 120)
"""


def read_settings(env: Mapping[str, str]) -> tuple[Target, int, float]:
    """The target, the port to serve on, and the seconds that draining may take.

    Raises ValueError naming the setting that is missing or wrong.
    """
    for name in ("BUD_PROBE_ENGINE", "BUD_PROBE_MODEL"):
        if not env.get(name):
            raise ValueError(f"{name} is not set")
    port = env.get("BUD_PROBE_PORT") or "9901"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"BUD_PROBE_PORT: {port!r} is no port")
    target = Target(
        address=parse_address(env["BUD_PROBE_ENGINE"]),
        health_path=_path(env.get("BUD_PROBE_HEALTH_PATH") or "/health"),
        task=env.get("BUD_PROBE_TASK") or "text-generation",
        model=env["BUD_PROBE_MODEL"],
        path=_path(env.get("BUD_PROBE_PATH", "")),
        adapters=tuple(name for name in env.get("BUD_PROBE_ADAPTERS", "").split(",") if name),
        ask=parse_address(env["BUD_PROBE_ASK"]) if env.get("BUD_PROBE_ASK") else None,
    )
    drain = env.get("BUD_PROBE_DRAIN") or "120"
    if not drain.isdecimal():
        raise ValueError(f"BUD_PROBE_DRAIN: {drain!r} is no number of seconds")
    return target, int(port), float(drain)


def _path(value: str) -> str:
    return value if not value or value.startswith("/") else f"/{value}"


def _log(message: str) -> None:
    print(json.dumps({"logger": "bud.probe", "message": message}), flush=True)


async def run(target: Target, port: int, drain_seconds: float) -> None:
    """Watch and serve until SIGTERM or SIGINT; raises OSError where the port is taken."""
    watch = Watch(target, log=_log)

    def page(path: str) -> tuple[int, str]:
        if path == "/healthz":
            return 200, "ok"
        if path != "/readyz":
            return 404, "only /readyz, /healthz and /drain are here"
        ready, reason = watch.readiness()
        return (200, f"ready: {reason}") if ready else (503, f"not ready: {reason}")

    async def wait() -> str:
        # Behind a relay, callers wait there.
        said = await drained((target.ask or target.address).port, seconds=drain_seconds)
        _log(f"drained: {said}")
        return said

    waits: list[asyncio.Task[str]] = []

    async def drain() -> str:
        # However many ask, one looks: anybody who reaches the pod may ask.
        if not waits or waits[0].done():
            waits[:] = [asyncio.create_task(wait())]
        return await asyncio.shield(waits[0])

    server = await serve(port, page, {"/drain": drain})
    task = asyncio.ensure_future(watch.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    server.close()


def main() -> None:
    """The program: exit status 0 after SIGTERM, 2 for a wrong setting, 1 where the port is taken."""
    if len(sys.argv) > 1:
        print(USAGE, end="")
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    try:
        target, port, drain_seconds = read_settings(os.environ)
    except ValueError as error:
        print(f"bud-probe: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(run(target, port, drain_seconds))
    except OSError as error:
        print(f"bud-probe: cannot serve on port {port}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
