"""The store: what was last seen of every object that decides, with the indexes that a reconcile needs.

Versions are compared as numbers: the API server's resource versions of one resource grow with every write (the
Kubernetes API has promised that they compare since 1.35; etcd has always kept it).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from bud.kube.kinds import Resource
from bud.kube.seen import Key, Seen

_TOMBSTONES = 4096
"""Deletions remembered per resource, so that a late answer to a write of ours does not bring an object back."""

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

Listener = Callable[[Resource, Seen | None, Seen | None], None]
"""Called with the resource, what was seen before and what is seen now; None stands for absent."""


class Store:
    """Objects by resource and key; owned by one event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._objects: dict[Resource, dict[Key, Seen]] = defaultdict(dict)
        self._listed: dict[tuple[Resource, str], int] = defaultdict(int)
        self._gone: dict[Resource, dict[Key, int]] = defaultdict(dict)
        self._by_owner: dict[tuple[Resource, str, str, str], set[Key]] = defaultdict(set)
        self._by_link: dict[tuple[Resource, str, str], set[Key]] = defaultdict(set)
        self._derived: dict[Resource, dict[Callable[[list[Seen]], Any], Any]] = defaultdict(dict)
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Calls `listener` after every change."""
        self._listeners.append(listener)

    def get(self, resource: Resource, namespace: str, name: str) -> Seen | None:
        return self._objects[resource].get((namespace, name))

    def known(self, resource: Resource, metadata: Mapping[str, Any]) -> Seen | None:
        """What is kept of the object with this metadata, if that is of the same version or a newer one."""
        known = self.get(resource, metadata.get("namespace", ""), metadata["name"])
        return known if known is not None and known.version >= int(metadata["resourceVersion"]) else None

    def all(self, resource: Resource) -> list[Seen]:
        return list(self._objects[resource].values())

    def count(self, resource: Resource) -> int:
        return len(self._objects[resource])

    def derived(self, resource: Resource, make: Callable[[list[Seen]], _T]) -> _T:
        """What `make` gives, a function of the names and data of all objects; made anew only when they change."""
        known = self._derived[resource]
        if make not in known:
            known[make] = make(self.all(resource))
        made: _T = known[make]
        return made

    def children(self, resource: Resource, *, namespace: str, owner_kind: str, owner_name: str) -> list[Seen]:
        """Objects whose labels name this owner, by name."""
        keys = self._by_owner.get((resource, namespace, owner_kind, owner_name), ())
        return [self._objects[resource][key] for key in sorted(keys)]

    def linked(self, resource: Resource, *, namespace: str, link: str) -> list[Seen]:
        """Objects that refer to something, by name; an empty namespace means any."""
        keys = self._by_link.get((resource, namespace, link), ())
        return [self._objects[resource][key] for key in sorted(keys)]

    def put(self, seen: Seen) -> None:
        """Takes an object in, unless something newer of it is known, or it is known to be gone."""
        known = self._objects[seen.resource].get(seen.key)
        if known is not None and known.version >= seen.version:
            return
        listed = max(self._listed[seen.resource, ""], self._listed[seen.resource, seen.namespace])
        gone = max(listed, self._gone[seen.resource].get(seen.key, 0))
        if known is None and seen.version <= gone:
            return
        self._set(seen.resource, seen.key, seen)

    def remove(self, resource: Resource, key: Key, version: int) -> None:
        """Drops an object that was deleted at this version."""
        gone = self._gone[resource]
        gone[key] = version
        if len(gone) > _TOMBSTONES:
            del gone[next(iter(gone))]
        known = self._objects[resource].get(key)
        if known is not None and known.version <= version:
            self._set(resource, key, None)

    def replace(self, resource: Resource, items: Iterable[Seen], version: int, *, namespace: str = "") -> None:
        """Takes a whole list as of `version`, of one namespace or of all.

        What the list lacks is gone, unless it was seen after that version.
        """
        present: set[Key] = set()
        for item in items:
            present.add(item.key)
            known = self._objects[resource].get(item.key)
            if known is None or known.version < item.version:
                self._set(resource, item.key, item)
        self._listed[resource, namespace] = max(self._listed[resource, namespace], version)
        lacking = [
            key
            for key, seen in self._objects[resource].items()
            if key not in present and seen.version <= version and namespace in ("", seen.namespace)
        ]
        for key in lacking:
            self._set(resource, key, None)

    def _set(self, resource: Resource, key: Key, new: Seen | None) -> None:
        old = self._objects[resource].get(key)
        if old is not None:
            self._index(old, add=False)
        if new is None:
            self._objects[resource].pop(key, None)
        else:
            self._objects[resource][key] = new
            self._index(new, add=True)
        if old is None or new is None or old.data != new.data:
            self._derived.pop(resource, None)
        for listener in self._listeners:
            listener(resource, old, new)

    def _index(self, seen: Seen, *, add: bool) -> None:
        if seen.owner_name:
            owner = (seen.resource, seen.namespace, seen.owner_kind, seen.owner_name)
            _change(self._by_owner, owner, seen.key, add=add)
        for link in seen.links:
            _change(self._by_link, (seen.resource, seen.namespace, link), seen.key, add=add)
            if seen.namespace:
                _change(self._by_link, (seen.resource, "", link), seen.key, add=add)


def _change(index: dict[_K, set[Key]], at: _K, key: Key, *, add: bool) -> None:
    if add:
        index[at].add(key)
        return
    index[at].discard(key)
    if not index[at]:
        del index[at]
