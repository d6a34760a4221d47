"""From custom resources to the catalog: pure. What cannot be used is left out, and told.

A name is resolved in the order Deployment, adapter, Route, Provider model; what a later kind calls the same is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bud.api import API_VERSION, DEPLOYMENT
from bud.gateway.catalog import Catalog
from bud.gateway.keys import Keys
from bud.gateway.names import Names
from bud.gateway.parsed import KINDS, Item, Name, Raw, parsed
from bud.gateway.reach import Reach

_AT_ONCE = 100
"""Keys that are worked out before others have their turn: some milliseconds."""


@dataclass
class Objects:
    """Custom resources and Secrets as they came, by kind, namespace and name."""

    items: dict[Name, Raw] = field(default_factory=dict)

    def add(self, raw: Raw) -> None:
        metadata = raw["metadata"]
        self.items[raw["kind"], metadata.get("namespace", ""), metadata["name"]] = raw


@dataclass
class Built:
    """The catalog, and what a person should know: the object and what is wrong with it."""

    catalog: Catalog
    troubles: list[tuple[str, str]]


def build(objects: Objects, reach: Reach) -> Built:
    """The whole catalog, with Deployments at their Services, and every Secret at hand."""
    assembly = Assembly(reach, in_cluster=False)
    for kind, raw in ((key[0], raw) for key, raw in sorted(objects.items.items(), key=lambda item: item[0])):
        if kind in KINDS and (kind != DEPLOYMENT.kind or raw.get("apiVersion") == API_VERSION):
            assembly.put(None, parsed(kind, raw))
    while assembly.work():
        pass
    return assembly.built()


class Assembly:
    """A catalog in the making: objects come and go by `put`, `work` takes in what changed, `built` gives the whole.

    In a cluster, Deployments are reached at their pods, and keys are known by the hashes in their status alone; `reach`
    says where Providers may be.
    """

    def __init__(self, reach: Reach, *, in_cluster: bool) -> None:
        self._reach = reach
        self._in_cluster = in_cluster
        self._keys = Keys(in_cluster=in_cluster)
        self._names: dict[str, Names] = {}
        self._unreadable: dict[Name, tuple[str, ...]] = {}

    def put(self, old: Item | None, new: Item | None) -> None:
        """An object that came, changed or went: what was known of it, and what is now."""
        if old is not None:
            self._unreadable.pop(old.key, None)
        if new is not None and new.troubles:
            self._unreadable[new.key] = new.troubles
        item = new or old
        assert item is not None
        if item.kind == "Project":
            self._keys.put_project(old, new)
        elif item.kind == "APIKey":
            self._keys.put(old, new)
        elif item.kind == "Secret":
            self.put_secret(item.namespace, item.name, _secret(new))
        else:
            self._of(item.namespace).put(old, new)

    def put_secret(self, namespace: str, name: str, secret: Mapping[str, str] | None) -> None:
        """A Secret's values as text; None for one that is not there."""
        self._of(namespace).put_secret(name, secret)
        if not self._in_cluster:
            self._keys.put_secret(namespace, name, secret)

    def credentials(self) -> frozenset[tuple[str, str]]:
        """Namespace and name of the Secrets that Providers refer to, where a Project has the namespace."""
        return frozenset((ns, name) for ns in self._keys.projects for name in self._of(ns).credentials())

    def work(self) -> bool:
        """Takes in some of what changed; whether there is more. A call takes some milliseconds."""
        if self._keys.work(_AT_ONCE):
            return True
        for namespace, names in self._names.items():
            if names.is_due:
                names.work()
                if names.is_empty:
                    del self._names[namespace]
                return True
        return False

    def built(self) -> Built:
        """The whole; what did not change is the same object as before."""
        names = {namespace: self._of(namespace).found for namespace in sorted(self._keys.projects)}
        troubles = [(called(name), text) for name, texts in sorted(self._unreadable.items()) for text in texts]
        troubles += self._keys.troubles()
        for namespace in names:
            troubles += self._of(namespace).troubles()
        return Built(Catalog(self._keys.settled(), names, known=self._keys.known), troubles)

    def _of(self, namespace: str) -> Names:
        known = self._names.get(namespace)
        if known is None:
            known = self._names[namespace] = Names(self._reach, sees_pods=self._in_cluster)
        return known


def _secret(item: Item | None) -> Mapping[str, str] | None:
    return item.what if item is not None and isinstance(item.what, Mapping) else None


def called(name: Name) -> str:
    """An object, for a person."""
    kind, namespace, own = name
    return f"{kind} {namespace}/{own}".replace(" /", " ")
