"""Imported first by every program: a stop that comes while it still loads its libraries is obeyed.

The first process of a container ignores a signal that it has no handler for, so that a pod that is deleted in its first
moments would stay for its whole grace period. It also spares each start what none of them needs.
"""

import os
import signal
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


# Nothing here plugs into pydantic; to look for what might in every installed package takes a tenth of a short start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

if os.getpid() == 1:
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, _leave)
