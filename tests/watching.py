"""Every version of an object, by a watch: also those that a later look would no longer find."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.waiting import eventually, is_so
from tests.world import World


@contextmanager
def watching(world: World, kind: str, name: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Watches an object; gives a function that tells all versions seen so far, the first one included."""
    command = [str(world.cluster.kubectl_path), "-n", world.namespace, "get", kind, name, "--watch", "-o", "json"]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env=world.cluster.environment())

        def versions() -> list[dict[str, Any]]:
            out.seek(0)
            return list(_documents(out.read()))

        try:
            eventually(lambda: is_so(versions()))
            yield versions
        finally:
            process.terminate()
            process.wait(timeout=30)


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """The documents of a stream; the last one may not be whole yet."""
    decoder, at = json.JSONDecoder(), 0
    while (at := len(text) - len(text[at:].lstrip())) < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return
        yield document
