"""Which keys are accepted, and whose they are: pure.

Worked out key by key, so that a change costs what it changes: a cluster may have tens of thousands.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping

from bud.gateway.catalog import Key, Project, meters
from bud.gateway.parsed import Item, KeyParts

_Id = tuple[str, str]
_Rank = tuple[bool, str]
"""Of several keys with one hash the least has it: one that was made, then the oldest."""
"""Namespace and name of an APIKey."""
_NOTHING: Mapping[str, str] = {}


class Keys:
    """Keys by their hash, from Projects and APIKeys that come and go.

    Of two Projects that name one namespace, and of two APIKeys with one hash, the older has it; but a key that was made
    comes before a hash that somebody wrote down.
    """

    def __init__(self, *, in_cluster: bool) -> None:
        self._accepted: dict[str, Key] = {}
        self._shown: Mapping[str, Key] = {}
        self._changed = False
        self._in_cluster = in_cluster
        self.projects: dict[str, Project] = {}
        self._spaces: dict[str, str] = {}
        """The namespaces that Projects name, by the Projects."""
        self._claimed: dict[str, list[Item]] = defaultdict(list)
        self._items: dict[_Id, Item] = {}
        self._in: dict[str, set[str]] = defaultdict(set)
        self._secrets: dict[_Id, Mapping[str, str]] = {}
        self._made: dict[_Id, tuple[Key, ...]] = {}
        self._claims: dict[str, list[tuple[_Rank, _Id]]] = {}
        self._ranks: dict[_Id, _Rank] = {}
        self._due: dict[_Id, None] = {}
        self._contested: set[str] = set()
        self._told: dict[_Id, str] = {}

    def put_project(self, old: Item | None, new: Item | None) -> None:
        """One of them is None for a Project that comes or goes."""
        touched = set[str]()
        for item, is_new in ((old, False), (new, True)):
            if item is not None and isinstance(item.what, Project):
                rivals = self._claimed[item.what.namespace]
                rivals[:] = [rival for rival in rivals if rival.name != item.name] + ([item] if is_new else [])
                rivals.sort(key=lambda rival: (rival.created, rival.name))
                touched.add(item.what.namespace)
                self._spaces.pop(item.name, None)
                if is_new:
                    self._spaces[item.name] = item.what.namespace
        for namespace in touched:
            first = next(iter(self._claimed[namespace]), None)
            if first is not None and isinstance(first.what, Project):
                self.projects[namespace] = first.what
            else:
                self.projects.pop(namespace, None)
            self._due |= dict.fromkeys((namespace, name) for name in self._in[namespace])

    def put(self, old: Item | None, new: Item | None) -> None:
        """One of them is None for an APIKey that comes or goes."""
        item = new or old
        assert item is not None
        at = item.namespace, item.name
        if new is None:
            self._items.pop(at, None)
            self._in[item.namespace].discard(item.name)
        else:
            self._items[at] = new
            self._in[item.namespace].add(item.name)
        self._due[at] = None

    def put_secret(self, namespace: str, name: str, secret: Mapping[str, str] | None) -> None:
        """A Secret that may hold the key of an APIKey of its name."""
        self._secrets[namespace, name] = secret or _NOTHING
        if (namespace, name) in self._items:
            self._due[namespace, name] = None

    def work(self, most: int) -> int:
        """Works out so many of the keys that changed; gives how many it were."""
        done = 0
        while self._due and done < most:
            # The newest first: what was just said of a key waits for no thousand others.
            self._work_out(self._due.popitem()[0])
            done += 1
        return done

    def settled(self) -> Mapping[str, Key]:
        """All keys by their hash; the same object as before unless one of them changed."""
        if self._changed:
            self._shown, self._changed = dict(self._accepted), False
        return self._shown

    def known(self, project: str) -> frozenset[str] | None:
        """The uids of all keys of a project, accepted or not; None if one cannot be read, or it has no namespace."""
        namespace = self._spaces.get(project, "")
        if namespace not in self.projects or self.projects[namespace].name != project:
            return None
        whats = [self._items[namespace, name].what for name in self._in.get(namespace, ())]
        found = [what.uid if isinstance(what, KeyParts) else "" for what in whats]
        return frozenset(found) if all(found) else None

    def troubles(self) -> list[tuple[str, str]]:
        """Objects, and what is wrong with them."""
        found = [(_called(at), text) for at, text in sorted(self._told.items())]
        for digest in sorted(self._contested):
            owner, *late = (at for _, at in self._claims[digest])
            text = f"its hash is that of {_called(owner)}: the key is that one's"
            found += [(_called(at), text) for at in late]
        for namespace, rivals in sorted(self._claimed.items()):
            for rival in rivals[1:]:
                text = f"namespace {namespace!r} is that of Project {rivals[0].name}, which is older: it has none"
                found.append((f"Project {rival.name}", text))
        return found

    def _work_out(self, at: _Id) -> None:
        for key in self._made.pop(at, ()):
            claims = self._claims[key.hash]
            del claims[bisect_left(claims, (self._ranks[at], at))]
            self._settle(key.hash)
        self._told.pop(at, None)
        item = self._items.get(at)
        if item is None or not isinstance(item.what, KeyParts) or item.what.revoked:
            return
        project = self.projects.get(at[0])
        if project is None:
            self._told[at] = f"namespace {at[0]!r} is no Project's: the key is not accepted"
            return
        hashes = item.what.hashes
        if not hashes and not self._in_cluster:
            given = self._secrets.get(at, _NOTHING).get("key")
            if given is None:
                self._told[at] = "neither spec.hash nor a Secret of its name with `key`: the key is not accepted"
                return
            hashes = ((hashlib.sha256(given.encode()).hexdigest(), None),)
        made = self._made[at] = _made(item.name, item.what, project, hashes)
        self._ranks[at] = item.what.brought, item.created
        for key in made:
            insort(self._claims.setdefault(key.hash, []), (self._ranks[at], at))
            self._settle(key.hash)

    def _settle(self, digest: str) -> None:
        """Whose a hash is."""
        self._changed = True
        claims = self._claims[digest]
        (self._contested.add if len(claims) > 1 else self._contested.discard)(digest)
        if not claims:
            del self._claims[digest], self._accepted[digest]
            return
        self._accepted[digest] = next(key for key in self._made[claims[0][1]] if key.hash == digest)


def _called(at: _Id) -> str:
    return f"APIKey {at[0]}/{at[1]}"


def _made(name: str, parts: KeyParts, project: Project, hashes: Iterable[tuple[str, float | None]]) -> tuple[Key, ...]:
    both = parts.meters + meters(f"project/{project.name}", f"project {project.name}", project.limits)
    return tuple(
        Key(
            uid=parts.uid,
            name=name,
            project=project,
            hash=digest,
            endpoints=parts.endpoints,
            models=parts.models,
            ends=min((time for time in (parts.ends, ends) if time is not None), default=None),
            budget=parts.budget,
            meters=both,
        )
        for digest, ends in dict(hashes).items()
    )
