"""Holds the descriptor that it inherited, a copy's lock of use, until SIGTERM: for the life of a pod, in little memory.

A file of its own, run without any other module of ours. The pod's startup probe looks for its name.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os.utime(int(sys.argv[1]))  # used until now, for whoever looks for the least recently used
    sys.exit(0)


if __name__ == "__main__":
    # As process 1 it would not hear a signal that it has not asked for.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    while True:
        signal.pause()
