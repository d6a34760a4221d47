"""`bud-relay`: stands beside an engine that cannot be asked for an adapter by name, and lets callers do so."""

from __future__ import annotations

import bud.early  # noqa: F401

# isort: split
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping

from aiohttp import web

from bud.relay.server import Routes, runner

USAGE = """\
bud-relay takes requests to an inference engine and passes them on; one whose `model` is the name of an adapter gets the
fields by which the engine knows it.

Settings (environment):
  BUD_RELAY_ENGINE  the engine's address, as http://127.0.0.1:8000
  BUD_RELAY_MODEL   the name that the engine serves its model under
  BUD_RELAY_FIELDS  JSON: for that name and for each adapter's, the fields that are added to a request
  BUD_RELAY_PORT    the port to listen at (default 9902)
"""


def read_settings(env: Mapping[str, str]) -> tuple[Routes, int]:
    """The routes and the port; raises ValueError naming the setting that is missing or wrong."""
    for name in ("BUD_RELAY_ENGINE", "BUD_RELAY_MODEL", "BUD_RELAY_FIELDS"):
        if not env.get(name):
            raise ValueError(f"{name} is not set")
    engine, base, port = env["BUD_RELAY_ENGINE"], env["BUD_RELAY_MODEL"], env.get("BUD_RELAY_PORT") or "9902"
    if not engine.startswith("http://"):
        raise ValueError(f"BUD_RELAY_ENGINE: {engine!r} is no http:// address")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"BUD_RELAY_PORT: {port!r} is no port")
    try:
        fields = json.loads(env["BUD_RELAY_FIELDS"])
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or base not in fields or not all(isinstance(v, dict) for v in fields.values()):
        raise ValueError(f"BUD_RELAY_FIELDS is no JSON object of objects with {base!r} among them")
    return Routes(engine=engine, base=base, fields=fields), int(port)


async def run(routes: Routes, port: int) -> None:
    """Relays until SIGTERM or SIGINT; raises OSError where the port is taken."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    relay = runner(routes)
    await relay.setup()
    try:
        await _listen(relay, port)
        await stop.wait()
    finally:
        await relay.cleanup()


async def _listen(relay: web.AppRunner, port: int) -> None:
    try:
        await web.TCPSite(relay, port=port).start()
    except OSError:
        # A node with IPv6 compiled in but switched off refuses the wildcard of that family.
        await web.TCPSite(relay, "0.0.0.0", port).start()


def main() -> None:
    """The program: exit status 0 after SIGTERM, 2 for a wrong setting, 1 where the port is taken."""
    if len(sys.argv) > 1:
        print(USAGE, end="")
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    try:
        routes, port = read_settings(os.environ)
    except ValueError as error:
        print(f"bud-relay: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(run(routes, port))
    except OSError as error:
        print(f"bud-relay: cannot serve on port {port}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
