"""Logging of the programs: JSON lines for machines, or text for people."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

_INDISCREET = ("botocore", "uvicorn.error", "websockets")
"""They log the headers of requests, or what is signed."""


def configure(*, log_format: LogFormat, level: LogLevel) -> None:
    """Sends everything to standard error; Kopf and asyncio speak only of warnings, unless `level` is debug.

    Libraries that would write credentials for debugging are never asked to.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _INDISCREET:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    if level != "debug":
        for name in ("kopf", "asyncio", "aiohttp.access"):
            logging.getLogger(name).setLevel(logging.WARNING)
