"""The gateway's objects out of a folder of YAML files, read again when one of them changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bud.gateway.build import Built, Objects, build
from bud.gateway.reach import Reach

log = logging.getLogger("bud.gateway")

_LOOK_SECONDS = 0.5
_KINDS = frozenset({"Project", "APIKey", "Provider", "Route", "Deployment", "Secret"})


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML, where times are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  of the class it comes from
        letter: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read(folder: Path, reach: Reach) -> Built:
    """The catalog of all `*.yaml` and `*.yml` below a folder. Raises `ValueError`, naming the file."""
    objects = Objects()
    for file in _files(folder):
        try:
            documents = list(yaml.load_all(file.read_text(), _Loader))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{file}: {error}") from None
        for document in documents:
            _add(objects, document, file)
    return build(objects, reach)


async def follow(folder: Path, reach: Reach, take: Callable[[Built], None]) -> None:
    """Gives what the folder says whenever it says something else; what cannot be read changes nothing."""
    seen = _state(folder)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if (now := _state(folder)) == seen:
            continue
        if not now:
            log.error("there are no files any more in %s; what was known stays", folder)
            continue
        seen = now
        try:
            take(await asyncio.to_thread(read, folder, reach))
        except Exception as error:  # whatever is in a file, what runs goes on
            log.error("the files are not read anew, what was known stays: %s", error)


def _add(objects: Objects, document: Any, file: Path) -> None:
    if document is None:
        return
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict) or not metadata.get("name") or not document.get("kind"):
        raise ValueError(f"{file}: each document needs kind and metadata.name")
    if not all(isinstance(metadata.get(field, ""), str) for field in ("name", "namespace")):
        raise ValueError(f"{file}: metadata.name and metadata.namespace are text: write {metadata['name']!r} in quotes")
    if document["kind"] not in _KINDS:
        if str(document.get("apiVersion")).startswith("bud.studio/"):
            log.warning("%s: the gateway has no use for kind %s", file, document["kind"])
        return
    if document["kind"] != "Project":
        metadata.setdefault("namespace", "default")
    objects.add(document)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in (".yaml", ".yml") and file.is_file())


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    state = {}
    for file in _files(folder):
        try:
            found = file.stat()
        except FileNotFoundError:
            continue
        state[file] = found.st_mtime_ns, found.st_size
    return state
