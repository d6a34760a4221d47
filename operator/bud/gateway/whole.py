"""An answer that is one JSON object, read before its caller is told of it: another can still be asked for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from bud.gateway.catalog import Target
from bud.gateway.glance import Seen, glance, is_text
from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.reply import Reply
from bud.gateway.translate.answer import Translated, read_whole

log = logging.getLogger("bud.gateway")

ENDPOINTS = frozenset(
    {"chat/completions", "completions", "embeddings", "classify", "rerank", "images/generations", "responses"}
)
"""Those that answer with one JSON object, unless with events; sound, files and documents have other formats."""


@dataclass(slots=True)
class Whole:
    """An answer that has come: its bytes, and what the object holds that they are, if they are one."""

    status: int
    headers: Mapping[str, str]
    text: bytes
    seen: Seen | None
    length: int | None = None

    def close(self) -> None:
        """It was read to its end."""


async def read(answer: Reply | Translated, target: Target) -> Whole | Refusal:
    """The answer as a whole, or why it is none."""
    try:
        text = await read_whole(answer)
    except OSError as error:
        log.warning("%s broke off its answer: %s", target.id, error)
        return Unavailable("the model broke off its answer; try again")
    except Unavailable as refusal:
        return refusal
    finally:
        answer.close()
    if (seen := glance(text)) is not None and is_text(text):
        return Whole(answer.status, answer.headers, text, seen)
    log.warning("%s answers with status %d and what is no JSON object", target.id, answer.status)
    return Unavailable("the model answered with something that is no JSON object; try again", code="upstream_invalid")
