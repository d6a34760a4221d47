"""Holds the descriptor that it inherited, a copy's lock of use, until SIGTERM: for the life of a pod, in little memory.

A file of its own, run without any other module of ours. The pod's startup probe looks for its name.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # They arrive blocked, so none is lost before the wait, and as process 1 it hears of them only so.
    signal.sigwait((signal.SIGTERM, signal.SIGINT))
    os.utime(int(sys.argv[1]))  # used until now, for whoever looks for the least recently used
