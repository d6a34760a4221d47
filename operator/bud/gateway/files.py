"""The gateway's objects out of a folder of YAML files, each read again by itself when it changes.

What takes an object back is a word that somebody said: a file that says something else, or that is gone. A file that
cannot be read, or is caught while it is written, says nothing; nor does a folder that is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from bud.api import API_VERSION, DEPLOYMENT, KINDS
from bud.api.base import GROUP
from bud.gateway.build import Built, Objects, build, called
from bud.gateway.mistyped import fault_of, meant
from bud.gateway.parsed import SPECS, Name
from bud.gateway.reach import Reach

log = logging.getLogger("bud.gateway")

_LOOK_SECONDS = 0.2
"""What has changed is read once it is the same at two looks, so within half a second: who writes is not done before."""
_KINDS = frozenset({*SPECS, "Secret"})
_OTHERS = frozenset(kind.kind for kind in KINDS) - _KINDS
"""Kinds of ours that the gateway has no use for."""
_Document = dict[str, Any]
_State = tuple[int, ...]


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML: times are text, and no field stands twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012  of the class it comes from
        letter: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, "a field stands twice", key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


class _Unfit(ValueError):
    """What is wrong with a file, in words of ours."""


@dataclass(slots=True)
class _File:
    """What was last read of a file, when it was as `state` says; `trouble` is why it is not read anew."""

    state: _State = ()
    documents: list[tuple[int, _Document]] = field(default_factory=list)
    trouble: str = ""


class Folder:
    """All `*.yaml` and `*.yml` below a folder, but for those whose path has a part that begins with a dot.

    So no file is read twice where a ConfigMap is mounted, whose files lie in `..data`.
    """

    def __init__(self, folder: Path, reach: Reach) -> None:
        self._folder = folder
        self._reach = reach
        self._files: dict[Path, _File] = {}
        self._seen: dict[Path, _State] = {}
        self._place: _State = ()
        self._trouble = ""
        self._is_new = True

    def look(self) -> Built | None:
        """What the folder says now; None while that is what it said before. The first look takes what there is."""
        before = self._trouble, {path: (file.state, file.trouble) for path, file in self._files.items()}
        now, away = self._scan()
        for path, state in now.items():
            file = self._files.get(path)
            if (self._is_new or self._seen.get(path) == state) and (file is None or file.state != state):
                self._read(path, state)
        for path in self._files.keys() - now.keys() - self._seen.keys():
            del self._files[path]
        if before[1] and not self._files:
            log.error("there are no files any more in %s: nothing is served, and no key is accepted", self._folder)
        # What nobody could look for counts as seen, so that the next look does not take it for gone either.
        self._seen = {path: () for path in self._files if any(path.is_relative_to(one) for one in away)} | now
        if self._is_new and not self._files:
            log.warning(
                "there are no *.yaml or *.yml in %s yet: nothing is served, and no key is accepted", self._folder
            )
        after = self._trouble, {path: (file.state, file.trouble) for path, file in self._files.items()}
        is_same, self._is_new = before == after and not self._is_new, False
        return None if is_same else self._built()

    def _scan(self) -> tuple[dict[Path, _State], list[Path]]:
        """The files with their states, and folders of which nobody knows what is in them."""
        away, found = list[Path](), dict[Path, _State]()
        self._trouble = ""
        for place, folders, names in os.walk(self._folder, onerror=lambda error: away.append(Path(error.filename))):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(place, name)
                if name.startswith(".") or path.suffix not in (".yaml", ".yml"):
                    continue
                try:
                    found[path] = _state(path.stat())
                except (FileNotFoundError, NotADirectoryError):
                    # A link that leads nowhere is there, and cannot be read: to take it away is to delete it.
                    with suppress(OSError):
                        found[path] = _state(path.lstat())
                except OSError:
                    away.append(path)
        place_now = self._where()
        if found:
            self._place = place_now
        elif self._files and self._place != place_now:
            # As when what is mounted there was taken away: whoever takes back keys removes files from this very folder.
            away.append(self._folder)
        if away:
            self._trouble = f"{', '.join(map(str, away))} cannot be read; what was known of it stays"
        return found, away

    def _where(self) -> _State:
        """Which folder it is, whatever its name leads to; empty while there is none."""
        try:
            return _state(self._folder.stat())[:2]
        except OSError:
            return ()

    def _read(self, path: Path, state: _State) -> None:
        file = self._files.setdefault(path, _File())
        try:
            found = _parsed(_text(path))
            if not found and file.documents:
                raise _Unfit("it is empty; to take back what it said, delete it")
            documents = list(_documents(found))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.is_symlink():
                return  # the next look tells
            file.state, file.trouble = (), self._stays(error, file)
            return  # tried again at the next look: nothing in the file need change for that
        except Exception as error:  # whatever is in a file, the others count
            file.trouble = self._stays(error, file)
        else:
            file.documents, file.trouble = documents, ""
        file.state = state

    @staticmethod
    def _stays(error: Exception, file: _File) -> str:
        return (
            f"it cannot be read: {_said(error)}; {'what it said before holds' if file.documents else 'it says nothing'}"
        )

    def _built(self) -> Built:
        """Of two objects of one name the first holds, by path."""
        objects, places = Objects(), dict[str, str]()
        troubles = [(str(self._folder), self._trouble)] if self._trouble else []
        for path, file in sorted(self._files.items()):
            if file.trouble:
                troubles.append((str(path), file.trouble))
            for number, document in file.documents:
                name, place = _name(document), f"{path}, document {number}"
                what = called(name)
                if what in places:
                    troubles.append((f"{place}, {what}", f"it stands in {places[what]}, too, which holds; remove one"))
                    continue
                places[what] = place
                if (fault := _fault(document)) is not None:
                    troubles.append((f"{place}, {what}", f"{fault}; the object is left out"))
                else:
                    objects.add(document)
        built = build(objects, self._reach)
        for what, text in built.troubles:
            troubles.append((f"{places[what]}, {what}" if what in places else what, text))
        return Built(built.catalog, troubles)


async def follow(folder: Folder, take: Callable[[Built], None]) -> None:
    """Gives what the folder says whenever it says something else."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            built = await asyncio.to_thread(folder.look)
        except Exception:  # whatever is in a file, what runs goes on
            log.exception("the files are not read anew, what was known stays")
            continue
        if built is not None:
            take(built)


def _said(error: Exception) -> str:
    """What is wrong with a file, and where, but nothing of what it holds: that may be a key."""
    if isinstance(error, yaml.MarkedYAMLError):
        words = (error.problem or "it is no YAML").partition(", but ")[0]
        # PyYAML quotes what it found, and what it expected, which is its own.
        words = words if "expected" in words else re.sub(r" (['\"]).*\1", "", words)
        mark = error.problem_mark or error.context_mark
        return words if mark is None else f"{words} (line {mark.line + 1}, column {mark.column + 1})"
    if isinstance(error, (UnicodeDecodeError, yaml.reader.ReaderError)):
        return str(error.reason)
    return str(error) if isinstance(error, (_Unfit, OSError)) else type(error).__name__


def _text(path: Path) -> str:
    """What is in a file. Raises `OSError`, and `_Unfit` for what is none: that may never begin or never end."""
    with open(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _Unfit("it is no file; to take back what it said, delete it")
        return file.read()


def _parsed(text: str) -> list[tuple[int, Any]]:
    """The documents that say anything, by their number; comments say nothing. Raises `yaml.YAMLError`."""
    return [(number, one) for number, one in enumerate(yaml.load_all(text, _Loader), 1) if one is not None]


def _documents(found: list[tuple[int, Any]]) -> Iterator[tuple[int, _Document]]:
    """Those that the gateway has a use for. Raises `_Unfit`."""
    for number, document in found:
        metadata = document.get("metadata") if isinstance(document, dict) else None
        if not isinstance(metadata, dict) or not metadata.get("name") or not isinstance(document.get("kind"), str):
            is_list = isinstance(document, dict) and str(document.get("kind")).endswith("List")
            remedy = "; write each item of a list as a document of its own, below a line ---" if is_list else ""
            raise _Unfit(f"document {number}: each needs kind and metadata.name{remedy}")
        if not all(isinstance(metadata.get(name, ""), str) for name in ("name", "namespace")):
            raise _Unfit(f"document {number}: metadata.name and metadata.namespace are text: write them in quotes")
        if _is_ours(document):
            yield number, document


def _is_ours(document: _Document) -> bool:
    """Whether it is of a kind that the gateway reads, or was meant to be, in whatever version."""
    kind, version = document["kind"], str(document.get("apiVersion") or "")
    if version.lower().startswith(f"{GROUP}/") or get_close_matches(version, [API_VERSION], cutoff=0.8):
        return kind not in _OTHERS
    if kind == DEPLOYMENT.kind:
        return not version  # the same word means another kind, too, but never without its version
    return version in ("", "v1") and kind.lower() in {one.lower() for one in _KINDS}


def _fault(document: _Document) -> str | None:
    """What is wrong around the spec, with the remedy."""
    kind, version = document["kind"], document.get("apiVersion")
    if kind not in _KINDS:
        return f"kind: there is no such kind; {meant(kind, sorted(_KINDS))}"
    wanted = "v1" if kind == "Secret" else API_VERSION
    is_known = version == wanted or (version is None and kind != DEPLOYMENT.kind)
    return fault_of(document, SPECS.get(kind)) if is_known else f"apiVersion: write {wanted}"


def _name(document: _Document) -> Name:
    metadata = document["metadata"]
    if document["kind"] == "Project":
        metadata.pop("namespace", None)  # it is in none
    else:
        metadata.setdefault("namespace", "default")
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


def _state(found: os.stat_result) -> _State:
    """What changes with a file."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
