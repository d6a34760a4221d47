"""Imported first by every program: a stop that comes while it still loads its libraries is obeyed.

The first process of a container ignores a signal that it has no handler for, so that a pod that is deleted in its first
moments would stay for its whole grace period. Elsewhere Ctrl-C ends a program as any signal does, until it handles that
itself: Python would raise within whatever it loads, and tell where. It also spares each start what none of them needs.
"""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _is_program() -> bool:
    """Whether Python runs one of ours, as a script or by `-m`: whoever merely imports one keeps their own Ctrl-C."""
    script = sys.argv[0] if sys.argv else ""
    return os.path.basename(script).startswith("bud-") or script.startswith(os.path.join(os.path.dirname(__file__), ""))


# Nothing here plugs into pydantic; to look for what might in every installed package takes a tenth of a short start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

if os.getpid() == 1:
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, _leave)
elif _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
